"""What devices did of late, summed over their windows. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from milonga_hub.telemetry.rules import merge_histograms
from milonga_hub.telemetry.rules_machine import POWER, THROTTLED, mean_watts, throttled_share, told
from milonga_hub.telemetry.rules_medians import medians
from milonga_hub.telemetry.stored import ActiveWindow


@dataclass(frozen=True)
class Activity:
    """One device with the bundle that it served last. Lost windows and temperature are those of all its windows."""

    project: str
    model_version: str
    bundle: str
    request_count: int
    error_count: int
    median_ms: float | None
    # The last one: what it is now, not what it was at its hottest.
    temperature_celsius: float | None
    dropped_count: int
    window_count: int = 0
    # Shares of windows, and the last watts; None where the machine does not tell.
    throttled_share: float | None = None
    power_watts: float | None = None


def activity(windows: Iterable[ActiveWindow]) -> dict[str, Activity]:
    """Return what each device did; windows come oldest first."""
    by_device: defaultdict[str, list[ActiveWindow]] = defaultdict(list)
    for window in windows:
        by_device[window.device].append(window)
    same = [[one for one in its if one.bundle == its[-1].bundle] for its in by_device.values()]
    halves = medians([[one.log10_latency_ms for one in its] for its in same])
    return {
        device: _of_one(its, alike, median_ms)
        for (device, its), alike, median_ms in zip(by_device.items(), same, halves, strict=True)
    }


def _of_one(windows: Sequence[ActiveWindow], same: Sequence[ActiveWindow], median_ms: float | None) -> Activity:
    last = windows[-1]
    temperatures = [one.temperature_celsius for one in windows if one.temperature_celsius is not None]
    machine = [each for one in windows if (each := told(one.pictures))]
    throttled = [each[THROTTLED] for each in machine if THROTTLED in each]
    powers = [each[POWER] for each in machine if POWER in each]
    return Activity(
        project=last.project,
        model_version=last.model_version,
        bundle=last.bundle,
        request_count=sum([window.request_count for window in same]),
        error_count=sum([window.error_count for window in same]),
        median_ms=median_ms,
        temperature_celsius=temperatures[-1] if temperatures else None,
        dropped_count=_newly_dropped(windows),
        window_count=len(windows),
        throttled_share=throttled_share(merge_histograms(throttled)) if throttled else None,
        power_watts=mean_watts(powers[-1]) if powers else None,
    )


def _newly_dropped(windows: Sequence[ActiveWindow]) -> int:
    """Return windows lost within these: the count grows from boot on, so what the first one tells is older."""
    dropped = [window.dropped_count for window in windows]
    if not any(dropped):
        return 0
    counts: defaultdict[str, list[int]] = defaultdict(list)
    for window, count in zip(windows, dropped, strict=True):
        counts[window.boot_id].append(count)
    return sum(max(each) - min(each) for each in counts.values())
