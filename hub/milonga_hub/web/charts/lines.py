"""Lines over time, one for each device: the base of the telemetry pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from milonga_hub.web.charts.drawing import Scale, circle, element, left_axis, legend, line, path, picture
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _

WIDTH, HEIGHT = 560, 236
LEFT, RIGHT, TOP, BOTTOM = 52, 546, 46, 200
# The style sheet has this many colours; more lines begin again.
COLOURS = 6
_TICKS = 4
_FORMS = {"seconds": "%H:%M:%S", "minutes": "%H:%M", "days": "%d %b %H:%M"}


@dataclass(frozen=True)
class Series:
    """One line; `dashed` ones share the colour of the solid one before."""

    name: str
    points: Sequence[tuple[datetime, float]]
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Span:
    """The time that a picture shows; a line is broken where nothing was heard for `gap_seconds`."""

    since: datetime
    until: datetime
    gap_seconds: float = math.inf


def lines(
    title: str,
    unit: str,
    series: Sequence[Series],
    highest: float | None = None,
    span: Span | None = None,
    limit: float | None = None,
    lowest: float = 0.0,
) -> Markup:
    """Return the picture with a legend; lines with a dash are not named again. Empty without points.

    Without a span it shows the time of the points.
    """
    drawn = [each for each in series if each.points]
    if not drawn:
        return Markup("")
    times = [at.timestamp() for each in drawn for at, _value in each.points]
    values = [value for each in drawn for _, value in each.points]
    top = highest or max([*values, limit or 0.0]) * 1.12 or 1.0
    began, ended = (span.since.timestamp(), span.until.timestamp()) if span else (min(times), max(times))
    x = Scale(began, max(ended, began + 1), LEFT, RIGHT)
    y = Scale(lowest, top, BOTTOM, TOP)
    parts = [*left_axis(y, LEFT, RIGHT, unit), *time_axis(x)]
    for each in drawn:
        colour = f"s{each.colour % COLOURS + 1}"
        for stretch in _stretches(each.points, span.gap_seconds if span else math.inf):
            points = [(x(at.timestamp()), y(value)) for at, value in stretch]
            parts.append(path(points, f"line {colour}{' dashed' if each.dashed else ''}"))
            if not each.dashed:
                parts.append(circle(*points[-1], 3.2, f"end {colour}"))
    if limit is not None:
        parts.append(line(LEFT, y(limit), RIGHT, y(limit), "limit"))
    named = [(each.name, f"line s{each.colour % COLOURS + 1}") for each in drawn if not each.dashed]
    parts += legend(named, LEFT, 16)
    last = ", ".join(f"{each.name} {each.points[-1][1]:.3g} {unit}" for each in drawn)
    rows: list[list[Cell]] = [[at, each.name, value] for each in drawn for at, value in each.points]
    return picture(WIDTH, HEIGHT, f"{title}: {last}", parts, [[_("time"), _("line"), f"{title} {unit}".strip()], *rows])


def _stretches(points: Sequence[tuple[datetime, float]], gap_seconds: float) -> list[list[tuple[datetime, float]]]:
    found: list[list[tuple[datetime, float]]] = []
    for at, value in points:
        if not found or (at - found[-1][-1][0]).total_seconds() > gap_seconds:
            found.append([])
        found[-1].append((at, value))
    return found


def time_axis(x: Scale) -> list[Markup]:
    parts = [line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")]
    seconds = x.high - x.low
    name = "seconds" if seconds < 600 else "minutes" if seconds < 86400 else "days"
    form = _FORMS[name]
    for index in range(_TICKS):
        at = datetime.fromtimestamp(math.floor(x.low + seconds * index / (_TICKS - 1)), UTC)
        anchor = "start" if index == 0 else "end" if index == _TICKS - 1 else "middle"
        # times.js writes them in the reader's zone.
        moment = {"data_time": at.isoformat(), "data_form": name}
        place = x(x.low + seconds * index / (_TICKS - 1))
        parts.append(
            element("text", at.strftime(form), x=place, y=BOTTOM + 18, cls="tick", text_anchor=anchor, **moment)
        )
    zone = {"data_zone": datetime.fromtimestamp(math.floor(x.high), UTC).isoformat()}
    parts.append(element("text", "UTC", x=RIGHT, y=BOTTOM + 33, cls="tick", text_anchor="end", **zone))
    return parts
