"""Latency of requests over time: the median solid, the slowest percent dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.web.charts.lines import Series, lines
from milonga_hub.web.language import gettext as _


def latency(windows: Mapping[str, Sequence[TelemetryWindow]]) -> Markup:
    """Return the picture of windows by device, oldest first."""
    series = []
    for colour, (device, of_device) in enumerate(windows.items()):
        served = [
            (window.ended_at, window.latency_ms)
            for window in of_device
            if window.latency_ms is not None and window.request_count
        ]
        series.append(Series(f"{device} p99", [(at, found.p99) for at, found in served], colour, dashed=True))
        series.append(Series(device, [(at, found.p50) for at, found in served], colour))
    return lines(_("Latency, median and p99"), "ms", series)
