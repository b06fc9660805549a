"""How telemetry grows coarser with age: which windows become one, and what that one says. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import add_counts, latency_percentiles, merge_histograms

MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Retention:
    """How long windows stay as they came, then one a minute, then one an hour, and then none."""

    raw_days: float = 2.0
    minute_days: float = 14.0
    days: float = 365.0

    def levels(self, now: datetime) -> list[tuple[int, datetime]]:
        """Return the length of windows, in seconds, with the age from which on they have it, the coarsest first."""
        return [
            (HOUR, _floor(now - timedelta(days=max(self.minute_days, self.raw_days)), HOUR)),
            (MINUTE, _floor(now - timedelta(days=self.raw_days), MINUTE)),
        ]

    def forgotten_before(self, now: datetime) -> datetime:
        return now - timedelta(days=self.days)


def _floor(when: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(when.timestamp() // seconds * seconds, when.tzinfo)


def grouped(windows: Sequence[TelemetryWindow], seconds: int) -> list[list[TelemetryWindow]]:
    """Return the windows of one device that become one each: of one boot, bundle and stretch of time."""
    groups: defaultdict[tuple[str, str, str, datetime], list[TelemetryWindow]] = defaultdict(list)
    for window in windows:
        groups[window.boot_id, window.project, window.bundle, _floor(window.started_at, seconds)].append(window)
    return [*groups.values()]


def merged(windows: Sequence[TelemetryWindow]) -> dict[str, object]:
    """Return the figures of the one window that stands for these; counts and histograms are sums, so nothing is lost."""
    latency = _sum([window.log10_latency_ms for window in windows])
    names = sorted({name for window in windows for name in window.inputs})
    inputs = {name: _sum([window.inputs.get(name) for window in windows]) for name in names}
    temperatures = [window.temperature_celsius for window in windows if window.temperature_celsius is not None]
    loads = [window.cpu_percent for window in windows if window.cpu_percent is not None]
    return {
        "started_at": min(window.started_at for window in windows),
        "ended_at": max(window.ended_at for window in windows),
        "request_count": sum(window.request_count for window in windows),
        "error_count": sum(window.error_count for window in windows),
        "log10_latency_ms": latency,
        "latency_ms": latency_percentiles(latency) if latency is not None and sum(latency.counts) > 0 else None,
        "confidence": _sum([window.confidence for window in windows]),
        "class_counts": add_counts([window.class_counts for window in windows]),
        "inputs": {name: histogram for name, histogram in inputs.items() if histogram is not None},
        "cpu_percent": sum(loads) / len(loads) if loads else None,
        # The worst of the time is what one looks for later.
        "memory_bytes": max(window.memory_bytes for window in windows),
        "temperature_celsius": max(temperatures, default=None),
        # It grows from boot on.
        "dropped_count": max(window.dropped_count for window in windows),
    }


def _sum(histograms: Sequence[Histogram | None]) -> Histogram | None:
    return merge_histograms([one for one in histograms if one is not None])
