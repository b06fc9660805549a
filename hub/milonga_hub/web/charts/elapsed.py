"""An axis of time since something began, with ticks that are round on a clock."""

from __future__ import annotations

from markupsafe import Markup

from milonga_hub.web import words
from milonga_hub.web.charts.drawing import Scale, line, text
from milonga_hub.web.language import gettext as _

_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200, 86400)
# Ticks closer than this are told in minutes and seconds.
_IN_SECONDS = 600


def elapsed_axis(x: Scale, top: float, bottom: float) -> list[Markup]:
    """Return at most nine grid lines with their times, all in one form, and the form at the end."""
    ticks = _ticks(x.high)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    parts = []
    for tick in ticks:
        parts.append(line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(text(x(tick), bottom + 16, _clock(tick, step), "tick", "middle"))
    form = _("min:s since the start") if step < _IN_SECONDS else _("h:min since the start") if step < 86400 else ""
    return [*parts, text(x.end, bottom + 32, form, "tick", "end")]


def _ticks(total_seconds: float) -> list[float]:
    step = next((each for each in _STEPS if total_seconds / each <= 8), 86400 * (1 + int(total_seconds / 86400 / 8)))
    return [float(step * index) for index in range(int(total_seconds / step) + 1)]


def _clock(seconds: float, step: float) -> str:
    if step >= 86400:
        return words.duration(seconds) if seconds else "0"
    larger, smaller = divmod(round(seconds if step < _IN_SECONDS else seconds / 60), 60)
    return f"{larger}:{smaller:02}"
