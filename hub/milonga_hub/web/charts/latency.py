"""Latency of requests over time: the median solid, what 95 of 100 take at most dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import latency_quantiles
from milonga_hub.web.charts.lines import Series, lines
from milonga_hub.web.language import gettext as _

_SHARES = (0.5, 0.95)


def latency(windows: Mapping[str, Sequence[TelemetryWindow]]) -> Markup:
    """Return the picture of windows by device, oldest first."""
    series = []
    for colour, (device, of_device) in enumerate(windows.items()):
        served = [
            (window.ended_at, latency_quantiles(window.log10_latency_ms, _SHARES))
            for window in of_device
            if window.log10_latency_ms is not None and any(window.log10_latency_ms.counts)
        ]
        series.append(Series(f"{device} p95", [(at, found[1]) for at, found in served], colour, dashed=True))
        series.append(Series(device, [(at, found[0]) for at, found in served], colour))
    return lines(_("Latency, median and p95"), "ms", series)
