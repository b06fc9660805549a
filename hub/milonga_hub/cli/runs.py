"""milonga runs."""

from __future__ import annotations

import math
import sys
import uuid
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from milonga.v1 import projects_pb2 as pb
from rich.live import Live

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit, run_name
from milonga_hub.cli.failures import FAILED
from milonga_hub.cli.output import NONE, ago, console, measure, number, percent, print_json, say, short, table, word
from milonga_hub.cli.timeline import render_run

group = typer.Typer()

RunName = Annotated[str, typer.Argument(metavar="RUN", help="projects/PROJECT/runs/NUMBER, or short PROJECT/NUMBER.")]


@group.command("list")
def list_(
    project: Annotated[str, typer.Option("--project", help="Only of this project.")] = "",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List runs, the newest first."""
    with Client() as client:
        response = client.all(client.runs.ListRuns, pb.ListRunsRequest(project=project), "runs", limit)
    if json:
        print_json(response)
    elif not response.runs:
        say("no runs yet; applying a project starts one: milonga apply -f PROJECT.yaml")
    else:
        rows = (
            (
                f"{r.project}/{r.number}",
                word(pb.RunState, r.state),
                _stage(r),
                word(pb.Trigger, r.trigger),
                ago(r, "created_at"),
                r.outcome or r.error or (f"because {r.reason}" if r.reason else NONE),
            )
            for r in response.runs
        )
        table(("run", "state", "stage", "trigger", "started", "outcome"), rows)


def _stage(run: pb.Run) -> str:
    open_ = (pb.STAGE_STATE_RUNNING, pb.STAGE_STATE_FAILED, pb.STAGE_STATE_CANCELLED)
    return next((stage.name for stage in run.stages if stage.state in open_), NONE)


def _print_run(response: Any, json: bool) -> None:
    if json:
        print_json(response)
    else:
        console().print(render_run(response.run))


@group.command("show")
def show(run: RunName, hub: Hub = None, json: Json = False) -> None:
    """Show a run with its stages."""
    with Client() as client:
        response = client.runs.GetRun(pb.GetRunRequest(name=run_name(run)), timeout=CALL_SECONDS)
    _print_run(response, json)


@group.command("start")
def start(
    project: str,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Start a run of a project as it is now."""
    request = pb.StartRunRequest(project=project, reason=reason, request_id=uuid.uuid4().hex)
    with Client() as client:
        response = client.runs.StartRun(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.run.name} started; follow it: milonga runs watch {response.run.name}")


@group.command("cancel")
def cancel(run: RunName, hub: Hub = None, json: Json = False) -> None:
    """End a run where it is; `resume` goes on from there."""
    with Client() as client:
        response = client.runs.CancelRun(pb.CancelRunRequest(name=run_name(run)), timeout=CALL_SECONDS)
    _print_run(response, json)


@group.command("resume")
def resume(run: RunName, hub: Hub = None, json: Json = False) -> None:
    """Go on with a failed or cancelled run from where it ended."""
    with Client() as client:
        response = client.runs.ResumeRun(pb.ResumeRunRequest(name=run_name(run)), timeout=CALL_SECONDS)
    _print_run(response, json)


@group.command("approve")
def approve(run: RunName, hub: Hub = None, json: Json = False) -> None:
    """Let a run begin that a policy started and that waits for approval."""
    with Client() as client:
        response = client.runs.ApproveRun(pb.ApproveRunRequest(name=run_name(run)), timeout=CALL_SECONDS)
    _print_run(response, json)


@group.command("refuse")
def refuse(run: RunName, hub: Hub = None, json: Json = False) -> None:
    """End a run that waits for approval."""
    with Client() as client:
        response = client.runs.RefuseRun(pb.RefuseRunRequest(name=run_name(run)), timeout=CALL_SECONDS)
    _print_run(response, json)


@group.command("watch")
def watch(run: RunName, hub: Hub = None, json: Json = False) -> None:
    """Follow a run live until it ends. The exit code is 0 if it succeeded and 1 if not."""
    follow(run_name(run), json)


def follow(name: str, json: bool) -> None:
    """Show a run until it ends. Raises typer.Exit where it did not succeed."""
    with Client() as client:
        updates = (pb.WatchRunResponse(run=each) for each in client.hub.runs.watch_run(name))
        last = show_updates(updates, "run", render_run, json)
    if last is None or last.state != pb.RUN_STATE_SUCCEEDED:
        raise typer.Exit(FAILED)


def show_updates(updates: Iterable[Any], field: str, render: Callable[[Any], Any], json: bool) -> Any:
    """Show a stream of whole things, moving on a terminal, and return the last; with `json` one line for each."""
    if json:
        last = None
        for update in updates:
            print_json(update, lines=True)
            last = getattr(update, field)
        return last
    if sys.stdout.isatty():
        return _show_moving(updates, field, render)
    last = None
    for update in updates:
        last = getattr(update, field)
    if last is not None:
        # Not a terminal: a log is better served by the end than by every step on the way.
        console().print(render(last))
    return last


def _show_moving(updates: Iterable[Any], field: str, render: Callable[[Any], Any]) -> Any:
    newest: list[Any] = []
    # Drawn again four times a second, so that clocks go on between updates.
    with Live(
        console=console(),
        get_renderable=lambda: render(newest[-1]) if newest else "waiting for the hub",
        refresh_per_second=4,
        vertical_overflow="visible",
    ):
        for update in updates:
            newest[:] = [getattr(update, field)]
    return newest[-1] if newest else None


def _expected_ms(candidate: pb.Candidate) -> float:
    """Return the predicted latency; what was measured where nothing was predicted, and nothing sorts last."""
    known = (ms for ms in (candidate.predicted_ms, candidate.measured_ms) if not math.isnan(ms))
    return next(known, math.inf)


@group.command("candidates")
def candidates(
    run: RunName,
    device_type: Annotated[str, typer.Option("--type", help="Only for this device type.")] = "",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List the subnets that a run's search looked at closely."""
    request = pb.ListCandidatesRequest(run=run_name(run), device_type=device_type)
    with Client() as client:
        response = client.all(client.runs.ListCandidates, request, "candidates", limit)
        task = client.runs.GetRun(pb.GetRunRequest(name=run_name(run)), timeout=CALL_SECONDS).run.task
    if json:
        print_json(response)
    elif not response.candidates:
        say(f"no candidates yet; they come with the search: milonga runs watch {run}")
    else:
        best_first = sorted(response.candidates, key=lambda c: (c.device_type, not c.chosen, _expected_ms(c)))
        rows = (
            (
                c.device_type,
                f"{short(c.subnet)}{' (chosen)' if c.chosen else ''}",
                percent(c.accuracy),
                number(c.predicted_ms, "ms"),
                number(c.measured_ms, "ms"),
                f"{c.params / 1e6:.2f} M",
                c.precision,
                c.description,
            )
            for c in best_first
        )
        accuracy = measure(task)
        columns = ("type", "subnet", accuracy, "predicted", "measured", "weights", "precision", "what")
        table(columns, rows, right=(accuracy, "predicted", "measured", "weights"))
