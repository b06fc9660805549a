"""Histograms of many windows, added up as the bytes that they came as: no list is made of any of them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from milonga.pictures import BINS

from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import add_counts, merge_histograms
from milonga_hub.telemetry.rules_series import Sum, Summed, summed
from milonga_hub.telemetry.varints import how_many, sums

# What a window counts besides statistics of its inputs.
_LATENCY, _CONFIDENCE, _CLASSES = "log10_latency_ms", "confidence", "class_counts"
_NO_INPUTS = {_LATENCY, _CONFIDENCE, _CLASSES}


def added(windows: Sequence[TelemetryWindow], started_at: datetime) -> Sum:
    """As `summed` of windows that came just now."""
    rows: list[Summed] = [window for window in windows if window.counted is None]
    usual = [window for window in windows if window.counted is not None]
    if not usual:
        return summed(rows, started_at)
    loads = [window.cpu_percent for window in usual if window.cpu_percent is not None]
    heats = [window.temperature_celsius for window in usual if window.temperature_celsius is not None]
    names = {name for window in usual for name in window.counted or ()} - _NO_INPUTS
    inputs = {name: _usual_sum(name, usual) for name in sorted(names)}
    sum_ = Sum(
        started_at=started_at,
        window_count=len(usual),
        request_count=sum([window.request_count for window in usual]),
        error_count=sum([window.error_count for window in usual]),
        log10_latency_ms=_usual_sum(_LATENCY, usual),
        confidence=_usual_sum(_CONFIDENCE, usual),
        class_counts=_class_sum(usual),
        inputs={name: histogram for name, histogram in inputs.items() if histogram is not None},
        cpu_percent=sum(loads) / len(loads) if loads else None,
        memory_bytes=max([window.memory_bytes for window in usual]),
        temperature_celsius=max(heats, default=None),
    )
    if not rows:
        return sum_
    # The mean is that of windows that tell of their processors alone.
    return summed([*usual, *rows], started_at) if len(loads) < len(usual) else summed([sum_, *rows], started_at)


def histogram_sum(name: str, windows: Sequence[TelemetryWindow]) -> Histogram | None:
    """Return the sum of "log10_latency_ms", "confidence" or one of the inputs; None where no window has it."""
    others = [window for window in windows if window.counted is None]
    found = [_usual_sum(name, [window for window in windows if window.counted is not None])]
    found += [getattr(window, name) if name in _NO_INPUTS else window.inputs.get(name) for window in others]
    return merge_histograms([one for one in found if one is not None])


def _usual_sum(name: str, usual: Sequence[TelemetryWindow]) -> Histogram | None:
    counts = [window.counted[name] for window in usual if window.counted is not None and name in window.counted]
    packed = [one for one in counts if isinstance(one, bytes)]
    found = [one for one in counts if isinstance(one, Histogram)]
    if packed:
        low, high, bins = BINS[name]
        found.insert(0, Histogram(low, high, sums(packed, bins)))
    return merge_histograms(found) if len(found) != 1 else found[0]


def _class_sum(usual: Sequence[TelemetryWindow]) -> list[int]:
    by_size: defaultdict[int, list[bytes]] = defaultdict(list)
    for window in usual:
        counts = (window.counted or {}).get(_CLASSES)
        if isinstance(counts, bytes):
            by_size[how_many(counts)].append(counts)
    return add_counts([sums(packed, size) for size, packed in by_size.items()])
