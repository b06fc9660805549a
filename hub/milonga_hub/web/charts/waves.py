"""The waves of a rollout on a time axis: when each was under way, and when its devices had the version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from markupsafe import Markup

from milonga_hub.rollouts.rules_progress import Span
from milonga_hub.web import words
from milonga_hub.web.charts.drawing import Scale, line, picture, rect, text
from milonga_hub.web.charts.elapsed import elapsed_axis
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _

WIDTH, ROW, LEFT, RIGHT, TOP = 1080, 30, 84, 900, 6
# More marks than this are one blot, and a page of a large fleet is heavy enough.
_MOST_MARKS = 200


def waves(spans: Sequence[Span], now: datetime) -> Markup:
    """Return a row for each wave; empty before the first began."""
    starts = [span.began for span in spans if span.began is not None]
    if not starts:
        return Markup("")
    began = min(starts)
    total = max(1.0, max(((span.ended or now) - began).total_seconds() for span in spans if span.began is not None))
    x = Scale(0.0, total, LEFT, RIGHT)
    bottom = TOP + ROW * len(spans)
    parts = elapsed_axis(x, TOP, bottom)
    for index, span in enumerate(spans):
        parts += _row(span, TOP + ROW * index, x, began, now)
    said = ", ".join(f"{_name(span)} {_standing(span)}" for span in spans)
    return picture(WIDTH, bottom + 38, _("Waves over time: %(waves)s", waves=said), parts, _data(spans))


def _name(span: Span) -> str:
    return _("Wave %(index)s", index=span.index + 1)


def _standing(span: Span) -> str:
    if not span.count:
        return _("no device any more")
    said = _("%(done)s of %(count)s", done=span.succeeded, count=span.count)
    return _("%(said)s, %(failed)s failed", said=said, failed=span.failed) if span.failed else said


def _row(span: Span, y: float, x: Scale, began: datetime, now: datetime) -> list[Markup]:
    mark = "pending" if span.began is None else "running" if span.ended is None else "succeeded"
    mark = "failed" if span.failed else mark
    parts = [text(LEFT - 10, y + 19, _name(span), f"stage-name {mark}", "end")]
    if span.began is None:
        return [*parts, text(LEFT + 6, y + 19, _("waits") if span.count else _standing(span), "tick")]
    ended = span.ended or now
    left, right = x((span.began - began).total_seconds()), x((ended - began).total_seconds())
    took = words.duration((ended - span.began).total_seconds())
    tip = f"{_name(span)}: {_standing(span)}, {took}"
    parts.append(rect(left, y + 6, max(3.0, right - left), ROW - 12, f"bar {mark}", tip, 4.0))
    for at in span.arrivals[:: max(1, len(span.arrivals) // _MOST_MARKS)]:
        place = x((at - began).total_seconds())
        parts.append(line(place, y + 6, place, y + ROW - 6, "arrival"))
    parts.append(text(max(left + 3, right) + 8, y + 19, f"{_standing(span)}, {took}", "tick"))
    return parts


def _data(spans: Sequence[Span]) -> Iterator[list[Cell]]:
    yield [_("wave"), _("started"), _("ended"), _("devices"), _("succeeded"), _("failed")]
    for span in spans:
        yield [
            float(span.index + 1),
            span.began,
            span.ended,
            float(span.count),
            float(span.succeeded),
            float(span.failed),
        ]
