"""What devices did of late, summed over their windows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules import latency_quantiles, merge_histograms


class ActiveWindow(NamedTuple):
    """Those figures of a window that are summed here."""

    device: str
    boot_id: str
    project: str
    model_version: str
    bundle: str
    request_count: int
    error_count: int
    log10_latency_ms: Histogram | None
    temperature_celsius: float | None
    dropped_count: int


@dataclass(frozen=True)
class Activity:
    """One device with the bundle that it served last. Lost windows and temperature are those of all its windows."""

    project: str
    model_version: str
    bundle: str
    request_count: int
    error_count: int
    log10_latency_ms: Histogram | None
    median_ms: float | None
    # The last one: what it is now, not what it was at its hottest.
    temperature_celsius: float | None
    dropped_count: int


def activity(windows: Iterable[ActiveWindow]) -> dict[str, Activity]:
    """Return what each device did; windows come oldest first."""
    by_device = sorted(windows, key=lambda window: window.device)
    return {device: _of_one([*its]) for device, its in groupby(by_device, key=lambda window: window.device)}


def _of_one(windows: Sequence[ActiveWindow]) -> Activity:
    last = windows[-1]
    same = [window for window in windows if window.bundle == last.bundle]
    merged = merge_histograms([one.log10_latency_ms for one in same if one.log10_latency_ms is not None])
    temperatures = [one.temperature_celsius for one in windows if one.temperature_celsius is not None]
    return Activity(
        project=last.project,
        model_version=last.model_version,
        bundle=last.bundle,
        request_count=sum(window.request_count for window in same),
        error_count=sum(window.error_count for window in same),
        log10_latency_ms=merged,
        median_ms=latency_quantiles(merged, (0.5,))[0] if merged is not None and sum(merged.counts) > 0 else None,
        temperature_celsius=temperatures[-1] if temperatures else None,
        dropped_count=_newly_dropped(windows),
    )


def _newly_dropped(windows: Sequence[ActiveWindow]) -> int:
    """Return windows lost within these: the count grows from boot on, so what the first one tells is older."""
    total = 0
    by_boot = sorted(windows, key=lambda window: window.boot_id)
    for _, its in groupby(by_boot, key=lambda window: window.boot_id):
        counts = [window.dropped_count for window in its]
        total += max(counts) - min(counts)
    return total
