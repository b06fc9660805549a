"""How answers were shared among classes over time: a bar for each step, a stretch of it for each class."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup

from milonga_hub.telemetry.rules import add_counts
from milonga_hub.web.charts.drawing import Scale, left_axis, legend, picture, rect
from milonga_hub.web.charts.lines import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Span, time_axis
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _
from milonga_hub.web.words import percent

# The most frequent are named; all others together are one.
_NAMED = COLOURS - 1


def most_frequent(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the classes that a picture can tell apart by colour, in order."""
    totals = add_counts(rows)
    return sorted(sorted(range(len(totals)), key=lambda index: -totals[index])[:_NAMED])


def shares(
    title: str,
    names: Sequence[str],
    steps: Sequence[tuple[datetime, Sequence[int]]],
    shown: Sequence[int],
    span: Span,
    step_seconds: float,
) -> Markup:
    """Return the picture of class counts by step; classes that are not `shown` are one. Empty without counts."""
    steps = [(at, counts) for at, counts in steps if sum(counts)]
    if not steps:
        return Markup("")
    length = max(len(counts) for _at, counts in steps)
    totals = add_counts([counts for _at, counts in steps])
    x = Scale(span.since.timestamp(), span.until.timestamp(), LEFT, RIGHT)
    y = Scale(0.0, 1.0, BOTTOM, TOP)
    parts = [*left_axis(y, LEFT, RIGHT, percent=True), *time_axis(x)]
    for at, counts in steps:
        left, right = x(max(at.timestamp(), x.low)), x(min(at.timestamp() + step_seconds, x.high))
        below = 0.0
        rest = sum(counts) - sum(counts[index] for index in shown if index < len(counts))
        stretches = [(counts[index] if index < len(counts) else 0, _name(names, index)) for index in shown]
        for colour, (count, name) in enumerate([*stretches, (rest, _("others"))]):
            share = count / sum(counts)
            if share > 0:
                tip = _("%(name)s: %(share)s of %(count)s", name=name, share=percent(share), count=sum(counts))
                high = y(below + share)
                parts.append(
                    rect(left, high, max(0.8, right - left - 0.8), y(below) - high, f"share s{colour + 1}", tip)
                )
            below += share
    marks = [(_name(names, index)[:14], f"mark share-{colour + 1}") for colour, index in enumerate(shown)]
    if length > len(shown):
        marks.append((_("others"), f"mark share-{len(shown) + 1}"))
    parts += legend(marks, LEFT, 16)
    whole = sum(totals)
    said = ", ".join(f"{_name(names, index)} {totals[index] / whole:.0%}" for index in shown if index < length)
    header: list[Cell] = [_("time"), *(_name(names, index) for index in range(length))]
    rows: list[list[Cell]] = [[at, *counts, *([0] * (length - len(counts)))] for at, counts in steps]
    return picture(WIDTH, HEIGHT, f"{title}: {said}", parts, [header, *rows])


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else _("class %(name)s", name=index)
