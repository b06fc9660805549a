"""Telemetry over time: windows and sums of windows in even steps, as charts show them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules import (
    CLASSES,
    CONFIDENCE,
    INPUT_SIGNALS,
    UNORDERED,
    add_counts,
    compare,
    latency_quantiles,
    merge_histograms,
)
from milonga_hub.telemetry.rules_machine import POWER, THROTTLED, mean_watts, throttled_share

# Steps that are round on a clock, in seconds; a chart has at most so many of them.
_STEPS = (30, 60, 300, 900, 3600, 7200, 21600, 86400)
_MOST_STEPS = 120
QUANTILES = (0.5, 0.95, 0.99)


class Summed(Protocol):
    """What is added up: a window of one device, or the sum of many."""

    @property
    def window_count(self) -> int: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def request_count(self) -> int: ...
    @property
    def error_count(self) -> int: ...
    @property
    def log10_latency_ms(self) -> Histogram | None: ...
    @property
    def confidence(self) -> Histogram | None: ...
    @property
    def class_counts(self) -> Sequence[int]: ...
    @property
    def inputs(self) -> Mapping[str, Histogram]: ...
    @property
    def cpu_percent(self) -> float | None: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def temperature_celsius(self) -> float | None: ...


@dataclass(frozen=True)
class Sum:
    """What was added up from `started_at` on."""

    started_at: datetime
    window_count: int = 0
    request_count: int = 0
    error_count: int = 0
    log10_latency_ms: Histogram | None = None
    confidence: Histogram | None = None
    class_counts: Sequence[int] = ()
    inputs: Mapping[str, Histogram] = field(default_factory=dict)
    # The mean of the windows.
    cpu_percent: float | None = None
    # The most and the hottest of the windows: what one looks for.
    memory_bytes: int = 0
    temperature_celsius: float | None = None

    @property
    def error_share(self) -> float | None:
        return self.error_count / self.request_count if self.request_count else None

    @property
    def latencies_ms(self) -> tuple[float, ...] | None:
        """Return median, p95 and p99; None without requests."""
        histogram = self.log10_latency_ms
        if histogram is None or not sum(histogram.counts):
            return None
        return latency_quantiles(histogram, QUANTILES)

    @property
    def power_watts(self) -> float | None:
        """Return the mean of what machines drew; None where none tells."""
        return mean_watts(self.inputs.get(POWER))

    @property
    def throttled_share(self) -> float | None:
        """Return the share of windows in which a machine was throttled, of those whose machines tell."""
        return throttled_share(self.inputs.get(THROTTLED))

    @property
    def mean_confidence(self) -> float | None:
        histogram = self.confidence
        if histogram is None or not sum(histogram.counts):
            return None
        width = (histogram.high - histogram.low) / len(histogram.counts)
        middles = (histogram.low + (index + 0.5) * width for index in range(len(histogram.counts)))
        weighted = [middle * count for middle, count in zip(middles, histogram.counts, strict=True)]
        return sum(weighted) / sum(histogram.counts)


def step_for(seconds: float) -> int:
    """Return the seconds of a step for a chart over so long a time."""
    return next((step for step in _STEPS if seconds / step <= _MOST_STEPS), _STEPS[-1])


def floored(when: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(when.timestamp() // seconds * seconds, UTC)


def series(rows: Iterable[Summed], step_seconds: int) -> list[Sum]:
    """Return one sum for each step in which there is something, oldest first."""
    steps: defaultdict[datetime, list[Summed]] = defaultdict(list)
    for row in rows:
        steps[floored(row.started_at, step_seconds)].append(row)
    return [summed(steps[at], at) for at in sorted(steps)]


def summed(rows: Sequence[Summed], started_at: datetime) -> Sum:
    count = sum(row.window_count for row in rows)
    loads = [(row.cpu_percent, row.window_count) for row in rows if row.cpu_percent is not None]
    weight = sum(windows for _, windows in loads)
    # Asked for once: rows out of the database are read when they are asked.
    seen = [row.inputs for row in rows]
    names = sorted({name for each in seen for name in each})
    inputs = {name: _sum(each.get(name) for each in seen) for name in names}
    return Sum(
        started_at=started_at,
        window_count=count,
        request_count=sum(row.request_count for row in rows),
        error_count=sum(row.error_count for row in rows),
        log10_latency_ms=_sum(row.log10_latency_ms for row in rows),
        confidence=_sum(row.confidence for row in rows),
        class_counts=add_counts([row.class_counts for row in rows]),
        inputs={name: histogram for name, histogram in inputs.items() if histogram is not None},
        cpu_percent=sum(load * windows for load, windows in loads) / weight if weight else None,
        memory_bytes=max((row.memory_bytes for row in rows), default=0),
        temperature_celsius=max(
            (row.temperature_celsius for row in rows if row.temperature_celsius is not None), default=None
        ),
    )


def _sum(histograms: Iterable[Histogram | None]) -> Histogram | None:
    return merge_histograms([one for one in histograms if one is not None])


def drift_scores(sum_: Sum, reference: Mapping[str, Any]) -> dict[str, float]:
    """Return how far each signal is from the validation pictures, as the stability index that drift is judged by.

    Signals that either side lacks are left out.
    """
    seen: dict[str, Sequence[int]] = {CLASSES: sum_.class_counts}
    for name in (CONFIDENCE, *INPUT_SIGNALS):
        histogram = sum_.confidence if name == CONFIDENCE else sum_.inputs.get(name)
        seen[name] = histogram.counts if histogram is not None else ()
    found = {}
    for name, counts in seen.items():
        expected = [int(count) for count in reference.get("class_counts" if name == CLASSES else name) or []]
        if sum(counts) and len(expected) == len(counts):
            found[name] = compare(expected, counts, ordered=name not in UNORDERED).psi
    return found
