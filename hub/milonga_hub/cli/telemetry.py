"""milonga telemetry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from milonga.v1 import projects_pb2
from milonga.v1 import telemetry_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit
from milonga_hub.cli.devices import get_device
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import NONE, ago, facts, number, print_json, say, size, table
from milonga_hub.cli.projects import get_project

group = typer.Typer()

_COLUMNS = ("device", "ended", "requests", "errors", "p50", "p99", "confidence", "cpu", "memory")


def _row(window: pb.TelemetryWindow) -> tuple[object, ...]:
    served = window.request_count > 0
    return (
        window.device,
        ago(window, "ended_at"),
        window.request_count,
        window.error_count,
        number(window.latency_ms.p50, "ms") if served else NONE,
        number(window.latency_ms.p99, "ms") if served else NONE,
        _mean(window) if served else NONE,
        number(window.cpu_percent, "%"),
        size(window.memory_bytes),
    )


def _mean(window: pb.TelemetryWindow) -> str:
    """Return the mean confidence, as well as the histogram's bins tell it."""
    found = window.confidence
    total = sum(found.counts)
    if not total:
        return NONE
    width = (found.high - found.low) / len(found.counts)
    return f"{sum(count * (found.low + (i + 0.5) * width) for i, count in enumerate(found.counts)) / total:.2f}"


@group.command("list")
def list_(
    device: Annotated[str, typer.Option(help="Only of this device.")] = "",
    project: Annotated[str, typer.Option("--project", help="Only of this project.")] = "",
    minutes: Annotated[float, typer.Option(min=0, help="Only of the last minutes; 0 means all.")] = 0.0,
    limit: Limit = 50,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List telemetry windows, the last received first."""
    request = pb.QueryTelemetryRequest(device=device, project=project)
    if minutes:
        try:
            request.since.FromDatetime(datetime.now(UTC) - timedelta(minutes=minutes))
        except (OverflowError, ValueError) as error:
            raise Refused(f"--minutes {minutes:g} goes further back than calendars; 0 takes all", USAGE) from error
    with Client() as client:
        response = client.all(client.telemetry.QueryTelemetry, request, "windows", limit)
    if json:
        print_json(response)
    elif not response.windows:
        _need(device, project)
        say("no telemetry yet; devices send it while they serve a model: milonga devices list")
    else:
        table(_COLUMNS, (_row(window) for window in response.windows), right=_COLUMNS[2:])


@group.command("watch")
def watch(device: str, hub: Hub = None, json: Json = False) -> None:
    """Print the windows of one device as they come, until Ctrl-C."""
    _need(device)
    with Client() as client:
        for window in client.hub.telemetry.watch_telemetry(device):
            if json:
                print_json(pb.WatchTelemetryResponse(window=window), lines=True)
            else:
                name, ended, *figures = (str(value) for value in _row(window))
                words = "  ".join(f"{column} {value}" for column, value in zip(_COLUMNS[2:], figures, strict=True))
                say(f"{name}  {ended}  {words}")


@group.command("drift")
def drift(
    project: Annotated[str, typer.Option("--project", help="Only of this project.")] = "",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List drift events, the newest first."""
    request = pb.ListDriftEventsRequest(project=project)
    with Client() as client:
        response = client.all(client.telemetry.ListDriftEvents, request, "drift_events", limit)
    if json:
        print_json(response)
    elif not response.drift_events:
        say(_no_drift(project))
    else:
        rows = (
            (
                e.device,
                e.signal,
                f"{e.statistic:.2f} ({e.threshold:g} allowed)",
                e.sample_count,
                ago(e, "detected_at"),
                e.triggered_run or ("over" if e.HasField("ended_at") else "nothing yet"),
            )
            for e in response.drift_events
        )
        table(("device", "signal", "how far", "samples", "seen", "answered by"), rows, right=("samples",))


def _need(device: str = "", project: str = "") -> None:
    """Raise NotFound for a device or project that there is not: nothing will ever be known of it."""
    with Client() as client:
        if device:
            get_device(client, device)
        if project:
            get_project(client, project)


def _no_drift(project: str) -> str:
    """Say that there is none, or that nobody would know."""
    with Client() as client:
        if project:
            projects = [get_project(client, project).project]
        else:
            every = projects_pb2.ListProjectsRequest()
            projects = [*client.all(client.projects.ListProjects, every, "projects", 0).projects]
    if any(each.spec.retraining.drift.enabled for each in projects):
        return "no drift so far; how devices are doing: milonga telemetry list"
    who = f"{project} does not watch" if project else "no project watches"
    return f"no drift, for {who} for it: set spec.retraining.drift.enabled: true in the project's file, and milonga apply -f FILE"


@group.command("accuracy")
def accuracy(project: str, hub: Hub = None, json: Json = False) -> None:
    """Tell what share of a project's answers is right, by the model's confidence: no labels needed."""
    request = pb.EstimateAccuracyRequest(project=project)
    with Client() as client:
        response = client.telemetry.EstimateAccuracy(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    facts(
        (
            ("model version", response.model_version),
            ("right answers", f"{response.accuracy:.1%} (95 % interval {response.low:.1%} to {response.high:.1%})"),
            ("of", f"{response.answer_count} answers of the last 24 hours"),
            ("on the validation pictures", f"{response.validated:.1%}"),
        )
    )
