"""Count what a model does: latencies, confidences, answers, and what its pictures look like, in fixed bins."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from milonga import pictures
from milonga.embeddings import EMBEDDING

# Enough for exact percentiles of a window on any device; beyond it the newest take the place of the oldest.
_MAX_LATENCIES = 20_000


class Window:
    """Counts since the last `take`. Safe to use from several threads."""

    def __init__(self, classes: int, cells: int = 0) -> None:
        """`cells` is how many parts of cells embeddings are counted in, 0 where a bundle gives none."""
        self._classes, self._cells = classes, cells
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._started_at = time.time()
        self._latencies: list[float] = []
        self._counts = {name: [0] * bins for name, (_, _, bins) in pictures.BINS.items()}
        self._class_counts = [0] * self._classes
        self._cell_counts = [0] * self._cells
        self._requests = self._errors = 0

    def answered(
        self,
        milliseconds: float,
        confidences: Any,
        answers: Any,
        seen: Sequence[Mapping[str, float]],
        places: Sequence[int] = (),
    ) -> None:
        """Count one request: engine time, confidence and class of each answer or box, statistics and cell of each picture."""
        with self._lock:
            self._requests += 1
            self._latencies.append(milliseconds)
            if len(self._latencies) > _MAX_LATENCIES:
                del self._latencies[: _MAX_LATENCIES // 2]
            self._add("log10_latency_ms", [math.log10(max(milliseconds, 1e-9))])
            self._add("confidence", confidences)
            for answer in answers:
                self._class_counts[int(answer)] += 1
            for name in pictures.INPUTS:
                self._add(name, [one[name] for one in seen])
            for place in places:
                self._cell_counts[place] += 1

    def failed(self) -> None:
        """Count one request that got an error."""
        with self._lock:
            self._requests += 1
            self._errors += 1

    def _add(self, name: str, values: Any) -> None:
        if len(values):
            counts = self._counts[name]
            for index, count in enumerate(pictures.histogram(name, values)):
                counts[index] += count

    def take(self) -> dict[str, Any]:
        """Return the counts as plain JSON and start again from nothing."""
        with self._lock:
            taken = {
                "started_at": self._started_at,
                "ended_at": time.time(),
                "request_count": self._requests,
                "error_count": self._errors,
                "latency_ms": _percentiles(self._latencies),
                "log10_latency_ms": _histogram("log10_latency_ms", self._counts),
                "confidence": _histogram("confidence", self._counts),
                "inputs": {**{name: _histogram(name, self._counts) for name in pictures.INPUTS}, **self._embedded()},
                "class_counts": self._class_counts,
            }
            self._clear()
        return taken

    def _embedded(self) -> dict[str, Any]:
        counts = self._cell_counts
        return {EMBEDDING: {"low": 0.0, "high": float(len(counts)), "counts": counts}} if counts else {}


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "mean": 0.0, "count": 0}
    p50, p90, p99 = (float(value) for value in np.percentile(values, [50, 90, 99]))
    return {"p50": p50, "p90": p90, "p99": p99, "mean": float(np.mean(values)), "count": len(values)}


def _histogram(name: str, counts: Mapping[str, list[int]]) -> dict[str, Any]:
    low, high, _ = pictures.BINS[name]
    return {"low": low, "high": high, "counts": counts[name]}
