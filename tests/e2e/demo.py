"""`make demo`: the whole loop on this machine, shown as a live timeline."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milonga.v1 import projects_pb2
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tests.e2e.loop import Loop, LoopFailed, Scale
from tests.e2e.processes import Stopped, System

DEFAULT_FOLDER = Path("demo-data")
# Marks a folder as the demo's own, so that it never deletes anything else.
MARK = "made-by-milonga-demo"


@dataclass
class Line:
    """One stage of the timeline."""

    name: str
    began: float = 0.0
    seconds: float = 0.0
    fraction: float = 0.0
    message: str = ""
    state: str = "waiting"


class Timeline:
    """Stages with progress bars; on a terminal they move, elsewhere each is printed once when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[Line] = []
        self.began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._draw, vertical_overflow="visible")

    def __enter__(self) -> Timeline:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for line in self._lines:
            if line.state == "running":
                self._end(line, "failed" if kind is not None else "done")
        if self._console.is_terminal:
            self._live.stop()

    def stage(self, name: str, work: Callable[[Callable[[float, str], None]], None]) -> None:
        """Do one stage and time it."""
        line = self._begin(name)

        def tell(fraction: float, message: str) -> None:
            line.fraction, line.message = fraction, message

        work(tell)
        self._end(line, "done")

    def run(self, follow: Callable[[Callable[[projects_pb2.Run], None]], Any], prefix: str) -> None:
        """Show every stage of a run as a stage of the timeline."""
        lines: dict[str, Line] = {}

        def show(run: projects_pb2.Run) -> None:
            for stage in run.stages:
                self._show_stage(stage, lines, prefix)

        follow(show)

    def _show_stage(self, stage: projects_pb2.Stage, lines: dict[str, Line], prefix: str) -> None:
        if stage.state == projects_pb2.STAGE_STATE_PENDING:
            return
        if stage.name not in lines:
            lines[stage.name] = self._begin(f"{prefix}{stage.name}")
        line = lines[stage.name]
        if line.state != "running":
            return
        line.fraction, line.message = stage.progress, stage.message
        ended = {
            projects_pb2.STAGE_STATE_SUCCEEDED: "done",
            projects_pb2.STAGE_STATE_SKIPPED: "skipped",
            projects_pb2.STAGE_STATE_FAILED: "failed",
        }.get(stage.state)
        if stage.name == "train" and ended is None:
            line.message += _training_figures(stage.metrics)
        if ended is not None:
            seconds = None
            if stage.HasField("started_at") and stage.HasField("ended_at"):
                seconds = (stage.ended_at.ToDatetime() - stage.started_at.ToDatetime()).total_seconds()
            self._end(line, ended, seconds)

    def _begin(self, name: str) -> Line:
        line = Line(name, began=time.monotonic(), state="running")
        self._lines.append(line)
        return line

    def _end(self, line: Line, state: str, seconds: float | None = None) -> None:
        line.seconds = time.monotonic() - line.began if seconds is None else seconds
        line.state = state
        line.fraction = 1.0 if state == "done" else line.fraction
        if not self._console.is_terminal:
            self._console.print(f"{state:>7} {line.seconds:6.1f} s  {line.name:<20} {line.message}", soft_wrap=True)

    def seconds(self) -> list[dict[str, Any]]:
        return [{"name": line.name, "seconds": round(line.seconds, 2)} for line in self._lines]

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 1))
        marks = {"done": "[green]✓", "failed": "[red]✗", "skipped": "[dim]–", "running": "[cyan]●"}
        for line in self._lines:
            running = line.state == "running"
            seconds = time.monotonic() - line.began if running else line.seconds
            bar = ProgressBar(total=1.0, completed=line.fraction, width=16) if running else Text("")
            table.add_row(
                Text.from_markup(marks.get(line.state, " ")), line.name, bar, f"{seconds:.1f} s", Text(line.message)
            )
        return Group(table, Text(f"{time.monotonic() - self.began:.0f} s so far", style="dim"))


def _training_figures(metrics: Mapping[str, float]) -> str:
    """Return loss and accuracies as far as they are known."""
    loss = metrics.get("running_loss", metrics.get("loss"))
    words = "" if loss is None else f", loss {loss:.3f}"
    if "accuracy_largest" in metrics:
        words += f", largest {metrics['accuracy_largest']:.1%}, smallest {metrics['accuracy_smallest']:.1%}"
    return words


def _fresh_folder(folder: Path) -> Path:
    """Return an empty folder; one that an earlier demo left is removed, anything else is refused."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise LoopFailed(f"{folder} is not empty and not a demo's folder; choose another with --data-dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder.absolute()


def _say_where(console: Console, loop: Loop) -> None:
    console.print(f"Dashboard: http://{loop.system.addresses['http']}")
    if loop.system.set_up_link:
        # On a line of its own, so that a terminal makes one link of it.
        console.print("It lets in who has an account; make the first one here:")
        console.print(loop.system.set_up_link, soft_wrap=True, markup=False)


def _play(console: Console, loop: Loop, timeline: Timeline) -> None:
    timeline.stage("hub", loop.start_hub)
    _say_where(console, loop)
    timeline.stage("devices", loop.enrol)
    timeline.stage("data set", loop.import_known)
    timeline.stage("project", loop.apply)
    timeline.run(lambda show: loop.follow(loop.first_run, show), "")
    timeline.stage("serve", loop.ask_each_device)
    loop.start_traffic()
    timeline.stage("telemetry", loop.await_telemetry)
    timeline.stage("drift", loop.drift)
    timeline.stage("new labels", loop.label_new)
    timeline.stage("policy", loop.await_retraining)
    timeline.run(lambda show: loop.follow(loop.second_run, show), "retrain: ")
    timeline.stage("recovered", loop.see_recovery)
    timeline.stage("serve again", loop.ask_each_device)


def _print_summary(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title="Per device type (simulated boards on this machine)", title_justify="left", show_lines=True)
    table.add_column("device type", no_wrap=True)
    table.add_column("runs now", overflow="fold")
    table.add_column("accuracy")
    table.add_column("latency", no_wrap=True)

    def change(row: dict[str, Any], name: str) -> str:
        before, after = row[f"accuracy_{name}before"], row[f"accuracy_{name}after"]
        return "–" if before is None else f"{before:.1%} → {after:.1%}"

    for row in rows:
        before, after = (row[f"version_{when}"].rpartition("/")[2] for when in ("before", "after"))
        table.add_row(
            f"{row['name']}\nversion {before} → {after}",
            f"subnet {row['subnet'].removeprefix('sha256:')[:8]}\n{row['engine']}/{row['precision']}, "
            f"{row['size_bytes'] / 1000:.0f} kB",
            f"old {change(row, 'old_')}\nnew {change(row, 'new_')}\nall {change(row, '')}",
            f"predicted {row['predicted_ms']:.3f} ms\nmeasured  {row['measured_ms']:.3f} ms",
        )
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--summary", type=Path, metavar="FILE.json", help="also write the summary as JSON")
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_FOLDER, help="where to work (default: demo-data)")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        folder = _fresh_folder(arguments.data_dir)
        options = ("--heartbeat-seconds", "1", "--telemetry-seconds", "2")
        with System(folder, options) as system:
            loop = Loop(system, Scale())
            try:
                with Timeline(console) as timeline:
                    _play(console, loop, timeline)
                _finish(console, arguments, loop, timeline)
            finally:
                loop.stop_traffic()
    except KeyboardInterrupt:
        console.print(f"Stopped. Go on from here with: .venv/bin/milonga up --data-dir {arguments.data_dir}/hub")
        return 130
    except (LoopFailed, Stopped, TimeoutError) as error:
        console.print(f"The demo failed: {error}", style="red", markup=False)
        return 1
    return 0


def _finish(console: Console, arguments: argparse.Namespace, loop: Loop, timeline: Timeline) -> None:
    rows = loop.summary()
    seconds = time.monotonic() - timeline.began
    _print_summary(console, rows)
    console.print(f"{seconds:.0f} s in all; drift was detected {loop.drift_seconds:.1f} s after it began.")
    if arguments.summary:
        summary = {
            "seconds": round(seconds, 2),
            "stages": timeline.seconds(),
            "drift_seconds": round(loop.drift_seconds, 2),
            "recovery_seconds": None if loop.recovery_seconds is None else round(loop.recovery_seconds, 2),
            "device_types": rows,
        }
        arguments.summary.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if arguments.keep:
        _say_where(console, loop)
        console.print("Everything keeps running, and the devices keep serving. Ctrl-C stops it.")
        signal.pause()
    console.print(f"Look around again with: .venv/bin/milonga up --data-dir {arguments.data_dir}/hub", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
