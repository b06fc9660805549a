"""The stages of a run on a time axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from markupsafe import Markup

from milonga_hub.runs.models import Stage, StageState
from milonga_hub.web import words
from milonga_hub.web.charts.drawing import Scale, picture, rect, text
from milonga_hub.web.charts.elapsed import elapsed_axis
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _
from milonga_hub.web.said import said

WIDTH, ROW, LEFT, RIGHT, TOP = 1080, 28, 84, 980, 6


def timeline(stages: Sequence[Stage], now: datetime) -> Markup:
    """Return a row for each stage; a running stage shows how far it is."""
    starts = [stage.started_at for stage in stages if stage.started_at is not None]
    if not starts:
        return Markup("")
    began = min(starts)
    ends = [_end(stage, now) for stage in stages if stage.started_at is not None]
    total = max(1.0, max((end - began).total_seconds() for end in ends))
    x = Scale(0.0, total, LEFT, RIGHT)
    bottom = TOP + ROW * len(stages)
    parts = elapsed_axis(x, TOP, bottom)
    for index, stage in enumerate(stages):
        parts += _row(stage, TOP + ROW * index, x, began, now)
    listed = ", ".join(f"{words.term(stage.name)} {words.state(stage.state)}" for stage in stages)
    return picture(WIDTH, bottom + 38, _("Stages: %(stages)s", stages=listed), parts, _data(stages))


def _data(stages: Sequence[Stage]) -> Iterator[list[Cell]]:
    yield [_("stage"), _("state"), _("started"), _("ended"), _("attempts"), _("message")]
    for each in stages:
        message = said(each.message)
        yield [words.term(each.name), words.state(each.state), each.started_at, each.ended_at, each.attempts, message]


def _end(stage: Stage, now: datetime) -> datetime:
    running = stage.state is StageState.RUNNING
    return stage.ended_at or (now if running or stage.started_at is None else stage.started_at)


def _row(stage: Stage, y: float, x: Scale, began: datetime, now: datetime) -> list[Markup]:
    state, name, mark = words.state(stage.state), words.term(stage.name), words.mark(stage.state)
    parts = [text(LEFT - 10, y + 18, name, f"stage-name {mark}", "end")]
    if stage.started_at is None:
        parts.append(text(LEFT + 6, y + 18, state, "tick"))
        return parts
    seconds = (_end(stage, now) - stage.started_at).total_seconds()
    left = x((stage.started_at - began).total_seconds())
    width = max(3.0, x((_end(stage, now) - began).total_seconds()) - left)
    parts.append(rect(left, y + 6, width, ROW - 12, f"bar {mark}", f"{name}: {state}, {words.duration(seconds)}", 4.0))
    if stage.state is StageState.RUNNING:
        parts.append(rect(left, y + 6, width * min(1.0, max(0.0, stage.progress)), ROW - 12, "bar done", rx=4.0))
    note = words.duration(seconds) + (f", {stage.progress:.0%}" if stage.state is StageState.RUNNING else "")
    parts.append(text(left + width + 8, y + 18, note, "tick"))
    return parts
