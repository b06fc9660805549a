"""Search the best subnets for each device type. Runs as a job: see milonga_hub/jobs.py for how.

Accuracies that were evaluated are kept as they come, so a restarted job evaluates none of them again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from milonga_hub.jobs import JobContext, JobError, write_atomically
from milonga_hub.learning.data import Data, load
from milonga_hub.learning.evolve import Figures, Found, search
from milonga_hub.learning.predict import AccuracyModel, LatencyModel, cost_features
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import described, written
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.train import accuracy, load_supernet, logits_of
from milonga_hub.search.rules import within_limits

_LIMITS = ("latency_ms", "model_bytes", "memory_bytes")
# A page and a chart show no more.
_MAX_FRONT = 40


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return per device type the front, the candidates to verify on the device, and how good the predictions are."""
    torch.set_num_threads(spec["threads"] or torch.get_num_threads())
    supernet = load_supernet(spec["checkpoint"])
    evaluated = Evaluated(supernet, load(spec["data"]), workdir)
    model = _accuracy_model(spec, evaluated, context)
    types = {}
    for index, wanted in enumerate(spec["types"]):
        context.progress(0.5 + 0.5 * index / len(spec["types"]), f"searching for {wanted['name']}")
        types[wanted["name"]] = _Search(spec, wanted, evaluated, model).result()
    predictor = {"kendall_tau": model.kendall_tau, "held_out_count": evaluated.count}
    return {"accuracy_predictor": predictor, "types": types}


class Evaluated:
    """Accuracies of subnets that were really run on the validation split."""

    def __init__(self, supernet: Supernet, data: Data, workdir: Path) -> None:
        self.supernet, self.data, self.workdir = supernet, data, workdir
        self._path = workdir / "evaluated.json"
        # The random sample that the accuracy model learned from.
        self.sampled: list[Encoding] = []
        known = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else []
        self._accuracies: dict[Encoding, float] = {tuple(encoding): value for encoding, value in known}

    @property
    def count(self) -> int:
        return len(self._accuracies)

    def accuracy(self, encoding: Encoding) -> float:
        """Return the share of validation pictures that the subnet gets right."""
        if encoding not in self._accuracies:
            self._accuracies[encoding] = accuracy(self.logits(encoding), self.data.y_val)
            write_atomically(self._path, json.dumps([[list(key), value] for key, value in self._accuracies.items()]))
        return self._accuracies[encoding]

    def known(self, encoding: Encoding) -> float | None:
        return self._accuracies.get(encoding)

    def logits(self, encoding: Encoding) -> torch.Tensor:
        return logits_of(self.supernet, encoding, self.data)


def _accuracy_model(spec: dict[str, Any], evaluated: Evaluated, context: JobContext) -> AccuracyModel:
    space = evaluated.supernet.space
    source = random.Random(spec["seed"])
    chosen = [space.smallest(), space.largest()]
    # Small spaces may not have as many different subnets.
    for _ in range(100 * spec["evaluated_subnets"]):
        if len(chosen) >= spec["evaluated_subnets"]:
            break
        drawn = space.sample(source)
        if drawn not in chosen:
            chosen.append(drawn)
    evaluated.sampled = chosen
    accuracies = []
    for index, encoding in enumerate(chosen):
        context.progress(0.5 * index / len(chosen), f"evaluating subnet {index + 1} of {len(chosen)}")
        accuracies.append(evaluated.accuracy(encoding))
    return AccuracyModel(space, chosen, accuracies, _features(evaluated.supernet, chosen)[:, 0])


def _features(supernet: Supernet, encodings: Sequence[Encoding]) -> Any:
    return cost_features(supernet.space, encodings, supernet.resolution_px, supernet.classes)


class _Search:
    """The search for one device type."""

    def __init__(
        self, spec: dict[str, Any], wanted: dict[str, Any], evaluated: Evaluated, accuracies: AccuracyModel
    ) -> None:
        self._spec, self._wanted, self._evaluated, self._accuracies = spec, wanted, evaluated, accuracies
        self._supernet = evaluated.supernet
        measured = [tuple(one["encoding"]) for one in wanted["measurements"]]
        times = np.array([one["median_ms"] for one in wanted["measurements"]], dtype=np.float64)
        try:
            self._latency = LatencyModel(_features(self._supernet, measured), times)
        except ValueError as error:
            raise JobError(f"{wanted['name']}: {error}") from error
        self._limits = {name: wanted["limits"][name] for name in _LIMITS if wanted["limits"].get(name) is not None}

    def result(self) -> dict[str, Any]:
        spec = self._spec
        found = search(
            self._supernet.space, self._judge, len(self._limits), spec["population"], spec["generations"], spec["seed"]
        )
        front = _thinned(found.front, _MAX_FRONT)
        return {
            "latency_model": _quality(self._latency),
            "candidates": [self._exported(encoding) for encoding in self._to_verify(found)],
            "front": [self._figures(encoding) for encoding in front],
            "fastest": self._figures(found.fastest),
        }

    def _judge(self, encodings: list[Encoding]) -> Figures:
        features = _features(self._supernet, encodings)
        ms = self._latency.predict(features).ms
        values = {"latency_ms": ms, "model_bytes": np.empty(len(ms)), "memory_bytes": np.empty(len(ms))}
        for row, encoding in enumerate(encodings):
            facts = described(self._supernet, encoding, self._wanted["precision"])
            values["model_bytes"][row], values["memory_bytes"][row] = facts["model_bytes"], facts["memory_bytes"]
        excess = [values[name] / limit - 1.0 for name, limit in self._limits.items()]
        return Figures(
            self._accuracies.predict(encodings, features[:, 0]),
            ms,
            np.stack(excess, axis=1) if excess else np.empty((len(ms), 0)),
        )

    def _to_verify(self, found: Found) -> list[Encoding]:
        """Return the subnets to measure on the device, the most accurate first.

        Predicted accuracies only choose what to evaluate; evaluated ones decide, those from before the search included.
        The fastest of the front is always among them: the device may be slower than predicted.
        """
        if not found.front:
            return []
        count = self._spec["verified_candidates"]
        known = [encoding for encoding in self._evaluated.sampled if self._fits(encoding)]
        tried = {*_thinned(found.front, 2 * count), *known}
        ranked = sorted(tried, key=lambda encoding: (-self._evaluated.accuracy(encoding), encoding))
        chosen = [encoding for encoding in ranked if encoding != found.front[0]][: count - 1]
        return sorted([*chosen, found.front[0]], key=lambda one: (-self._evaluated.accuracy(one), one))

    def _fits(self, encoding: Encoding) -> bool:
        return bool((self._judge([encoding]).excess <= 0).all())

    def _figures(self, encoding: Encoding) -> dict[str, Any]:
        features = _features(self._supernet, [encoding])
        latency = self._latency.predict(features)
        facts = described(self._supernet, encoding, self._wanted["precision"])
        figures = {
            **facts,
            "predicted_accuracy": float(self._accuracies.predict([encoding], features[:, 0])[0]),
            "accuracy": self._evaluated.known(encoding),
            "predicted_ms": float(latency.ms[0]),
            "predicted_low_ms": float(latency.low_ms[0]),
            "predicted_high_ms": float(latency.high_ms[0]),
        }
        return {**figures, "fits": within_limits(figures, figures["predicted_ms"], self._limits)}

    def _exported(self, encoding: Encoding) -> dict[str, Any]:
        figures = self._figures(encoding)
        folder = self._evaluated.workdir / "candidates"
        path = written(self._supernet, encoding, self._evaluated.data.calibration, folder)
        logits = path.with_suffix(".npy")
        np.save(logits, self._evaluated.logits(encoding).numpy())
        return {**figures, "onnx": str(path), "logits": str(logits)}


def _thinned(front: list[Encoding], count: int) -> list[Encoding]:
    """Return at most `count` of the front, evenly spread, both ends among them."""
    if len(front) <= count:
        return front
    if count == 1:
        return front[-1:]
    return [front[round(index * (len(front) - 1) / (count - 1))] for index in range(count)]


def _quality(model: LatencyModel) -> dict[str, Any]:
    quality = asdict(model.quality)
    count = quality.pop("count")
    return {**quality, "measured_count": count}
