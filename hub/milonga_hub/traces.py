"""What jobs told while they worked, and what they took of their machine: kept beside each job, to be looked at."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil

NAME = "progress.jsonl"
# A job of a day then keeps 3 MB; the newest line is kept whenever it came.
_SECONDS_BETWEEN_LINES = 5.0
# What is looked at of one job.
_MOST_LINES = 2000


def used() -> dict[str, float]:
    """Return what this process has taken so far: seconds of processors, and bytes of memory and of a GPU's memory."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found = {
        "cpu_seconds": sum(each.ru_utime + each.ru_stime for each in spent),
        "memory_bytes": float(psutil.Process().memory_info().rss),
    }
    # Only a job that computes with torch has it, and loading it takes seconds.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated())
    return found


class Trace:
    """Writes what a job tells into its folder, a line every few seconds and the last one."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._written_at = float("-inf")
        self._waiting: dict[str, Any] | None = None

    def note(self, said: Mapping[str, Any]) -> None:
        """Keep a line of progress as the job wrote it."""
        kept = {key: said[key] for key in ("fraction", "message", "where", "used") if said.get(key)}
        self._waiting = {"at": datetime.now(UTC).isoformat(), **kept}
        if time.monotonic() - self._written_at >= _SECONDS_BETWEEN_LINES:
            self._write()

    def _write(self) -> None:
        if self._waiting is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._waiting) + "\n")
            self._waiting, self._written_at = None, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()


@dataclass(frozen=True)
class Line:
    at: datetime
    fraction: float
    message: str
    where: str = ""
    used: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class JobTrace:
    """The newest lines of one job, oldest first; `job` is its folder within the run's."""

    job: str
    lines: Sequence[Line]

    @property
    def cpu_percent(self) -> list[tuple[datetime, float]]:
        """Return how much of a processor it took between lines; where it began anew, nothing is told."""
        points = []
        for before, after in zip(self.lines, self.lines[1:], strict=False):
            seconds = (after.at - before.at).total_seconds()
            spent = after.used.get("cpu_seconds", 0.0) - before.used.get("cpu_seconds", 0.0)
            if seconds > 0 and spent >= 0 and "cpu_seconds" in after.used and "cpu_seconds" in before.used:
                points.append((after.at, 100 * spent / seconds))
        return points

    def bytes_of(self, kind: str) -> list[tuple[datetime, float]]:
        """Return "memory_bytes" or "gpu_memory_bytes" over time."""
        return [(line.at, line.used[kind]) for line in self.lines if kind in line.used]


def traces(folder: Path) -> list[JobTrace]:
    """Return what the jobs below a folder told, those that began first before the others."""
    found = [JobTrace(str(path.parent.relative_to(folder)), [*_read(path)]) for path in folder.rglob(NAME)]
    return sorted((each for each in found if each.lines), key=lambda each: (each.lines[0].at, each.job))


def _read(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8") as file:
        for text in deque(file, _MOST_LINES):
            try:
                said = json.loads(text)
                at = datetime.fromisoformat(said["at"]).astimezone(UTC)
                figures = {str(key): float(value) for key, value in said.get("used", {}).items()}
                yield Line(
                    at,
                    float(said.get("fraction", 0.0)),
                    str(said.get("message", "")),
                    str(said.get("where", "")),
                    figures,
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # A line that a power cut left half written.
