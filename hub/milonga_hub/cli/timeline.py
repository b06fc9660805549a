"""A run as a picture for terminals: its stages with bars, times and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from milonga.v1 import projects_pb2 as pb
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from milonga_hub.cli.output import clean, duration, moment, number, word

_MARKS = {
    pb.STAGE_STATE_PENDING: ("·", "dim"),
    pb.STAGE_STATE_RUNNING: ("●", "cyan"),
    pb.STAGE_STATE_SUCCEEDED: ("✓", "green"),
    pb.STAGE_STATE_FAILED: ("✗", "red"),
    pb.STAGE_STATE_SKIPPED: ("–", "dim"),
    pb.STAGE_STATE_CANCELLED: ("■", "yellow"),
}
_STATE_STYLES = {
    pb.RUN_STATE_RUNNING: "cyan",
    pb.RUN_STATE_SUCCEEDED: "green",
    pb.RUN_STATE_FAILED: "red",
    pb.RUN_STATE_CANCELLED: "yellow",
    pb.RUN_STATE_AWAITING_APPROVAL: "yellow",
}
_SHOWN_METRICS = 4
# Of a comparison, those that lost the most.
_SHOWN_CLASSES = 10


def render_run(run: pb.Run, now: datetime | None = None) -> RenderableType:
    """Return the run's timeline for rich, to print or to show live."""
    return Group(_title(run), stage_table(run.stages, now), *map(_comparison, run.comparisons), *_end(run))


def _comparison(compared: pb.Comparison) -> RenderableType:
    """The groups of pictures and, of the classes, those that changed most."""
    before, now = (name.rpartition("/")[2] for name in (compared.champion, compared.challenger))
    title = (
        f"{clean(compared.device_type)}: v{now} {'is better than' if compared.better else 'does not replace'} v{before}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for heading in ("pictures", "count", f"v{before}", f"v{now}", "better", "worse"):
        table.add_column(heading, justify="left" if heading == "pictures" else "right")
    classes = sorted(compared.classes, key=lambda one: one.challenger_accuracy - one.champion_accuracy)
    for one in (*compared.groups, *classes[:_SHOWN_CLASSES]):
        figures = (f"{one.champion_accuracy:.1%}", f"{one.challenger_accuracy:.1%}", str(one.gained), str(one.lost))
        table.add_row(clean(one.name), str(one.count), *figures)
    if len(classes) > _SHOWN_CLASSES:
        table.add_row(f"... {len(classes) - _SHOWN_CLASSES} more classes: --json", style="dim")
    return table


def stage_table(stages: Iterable[pb.Stage], now: datetime | None = None) -> Table:
    """Return stages with bars, times and figures."""
    now = now or datetime.now(UTC)
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(width=14)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for stage in stages:
        table.add_row(*_row(stage, now))
    return table


def _title(run: pb.Run) -> Text:
    state = word(pb.RunState, run.state)
    title = Text.assemble((run.name, "bold"), "  ", (state, _STATE_STYLES.get(run.state, "")))
    title.append(f"  {word(pb.Trigger, run.trigger)}", style="dim")
    if run.reason:
        title.append(f": {clean(run.reason)}", style="dim")
    return title


def _row(stage: pb.Stage, now: datetime) -> tuple[RenderableType, ...]:
    mark, style = _MARKS.get(stage.state, (" ", ""))
    running = stage.state == pb.STAGE_STATE_RUNNING
    bar: RenderableType = ProgressBar(total=1.0, completed=stage.progress, width=14) if running else ""
    words = clean(stage.message)
    if running and stage.metrics:
        words = f"{words}  {_metrics(stage.metrics)}".strip()
    if stage.where:
        words = f"{words}  (on {clean(stage.where)})".strip()
    if stage.attempts > 1:
        words = f"{words}  (attempt {stage.attempts})".strip()
    dim = "dim" if stage.state in (pb.STAGE_STATE_PENDING, pb.STAGE_STATE_SKIPPED) else ""
    return (
        Text(mark, style=style),
        Text(clean(stage.name), style=dim),
        bar,
        _seconds(stage, now),
        Text(words, style=dim),
    )


def _metrics(metrics: Mapping[str, float]) -> str:
    shown = sorted(metrics.items())[:_SHOWN_METRICS]
    return ", ".join(f"{clean(name).replace('_', ' ')} {number(value)}" for name, value in shown)


def _seconds(stage: pb.Stage, now: datetime) -> str:
    start, end = moment(stage, "started_at"), moment(stage, "ended_at")
    if start is None:
        return ""
    return duration(max(0.0, ((end or now) - start).total_seconds()))


def _end(run: pb.Run) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if run.error:
        lines.append(Text(clean(run.error), style=_STATE_STYLES.get(run.state, "")))
    if run.outcome:
        lines.append(Text(clean(run.outcome), style="bold"))
    if run.state in (pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED):
        lines.append(Text(f"go on from there: milonga runs resume {run.name}"))
    if run.state == pb.RUN_STATE_AWAITING_APPROVAL:
        lines.append(Text(f"let it begin: milonga runs approve {run.name}; or end it: milonga runs refuse {run.name}"))
    return lines
