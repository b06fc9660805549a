"""milonga projects."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from milonga.v1 import projects_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit
from milonga_hub.cli.output import NONE, ago, facts, moment, number, print_json, say, size, table, transferred

group = typer.Typer()

_COUNT_SECONDS = 300.0
_WHOLE: Any = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}


@group.command("list")
def list_(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List projects."""
    with Client() as client:
        response = client.all(client.projects.ListProjects, pb.ListProjectsRequest(), "projects", limit)
    if json:
        print_json(response)
    elif not response.projects:
        say("no projects yet; copy one from fleet_configs/projects, then: milonga apply -f FILE")
    else:
        rows = (
            (p.name, p.spec.dataset, p.spec.selector or "all devices", p.spec_generation, ago(p, "updated_at"))
            for p in response.projects
        )
        table(("project", "data set", "devices", "generation", "changed"), rows, right=("generation",))


def _limits(limits: pb.Limits) -> str:
    words = [
        f"at most {number(limits.latency_ms, 'ms')}" if limits.HasField("latency_ms") else "",
        f"model at most {size(limits.model_bytes)}" if limits.HasField("model_bytes") else "",
        f"memory at most {size(limits.memory_bytes)}" if limits.HasField("memory_bytes") else "",
    ]
    return f"{limits.selector or 'all devices'}: {', '.join(word for word in words if word) or NONE}"


def _retraining(spec: pb.ProjectSpec) -> Iterator[tuple[str, str]]:
    """Yield what starts runs and what holds them back, as rows."""
    policy = spec.retraining
    drift = policy.drift
    if drift.enabled and not spec.dataset:
        yield "drift", "opens alerts; the project trains nothing"
    elif drift.enabled:
        share = f", {drift.quorum_share:.0%} of a type" if drift.HasField("quorum_share") else ""
        told = f"beyond an index of {drift.threshold:g}"
        if drift.method == pb.DRIFT_METHOD_SEQUENTIAL:
            told += f", {drift.false_alarms_per_month:g} false alarms a month allowed"
        yield "drift", f"retrains from {drift.quorum} drifted device(s) on{share}; {told}"
    else:
        yield "drift", "is not watched"
    if policy.accuracy.HasField("below"):
        yield "accuracy", f"retrains below {policy.accuracy.below:.1%} right answers"
    if policy.new_labels:
        yield "new labels", f"retrains with {policy.new_labels} of them"
    if policy.schedule:
        yield "schedule", f"{policy.schedule} ({policy.time_zone})"
    budget = [
        f"at most {most} {period}"
        for most, period in ((policy.max_runs_per_day, "a day"), (policy.max_runs_per_week, "a week"))
        if most
    ]
    yield "cool-down", number(policy.cool_down_seconds, "s")
    if budget:
        yield "budget", f"{', '.join(budget)} start by themselves"
    if policy.quiet_hours:
        yield "quiet hours", f"{', '.join(policy.quiet_hours)} ({policy.time_zone})"
    if policy.approval:
        yield "approval", "runs that start by themselves wait for it: milonga runs approve RUN"


def _due(run: pb.DueRun) -> str:
    if not run.held_back_by:
        return f"a run ({run.reason}), which begins within seconds"
    when = moment(run, "held_back_until")
    until = f" until {when:%Y-%m-%d %H:%M} UTC" if when is not None else ""
    return f"a run ({run.reason}), which waits{until}: {run.held_back_by}"


def _shadow(rollout: pb.RolloutSpec) -> str:
    if not rollout.HasField("shadow"):
        return "none: a version serves as soon as it is installed and probed"
    shadow = rollout.shadow
    minutes, few = f"{shadow.minutes:g} minutes", f"{shadow.min_requests} requests or more"
    return f"{minutes} beside the version before, {few}, up to {shadow.max_disagreement:.1%} of the answers may differ"


def _samples(sampling: pb.SamplingSpec) -> str:
    if not sampling.enabled:
        return "off: no picture leaves a device"
    return f"at most {sampling.pictures_per_day} pictures and {sampling.megabytes_per_day:g} MB a day leave each device"


def _of(used: str, limit: str) -> str:
    return f"{used} of {limit}" if limit else used


def _used(usage: pb.ProjectUsage) -> tuple[str, ...]:
    """Return what a project takes, and may take, as a row."""
    quota = usage.quota
    stored = usage.dataset_bytes + usage.sample_bytes + usage.build_bytes
    return (
        usage.project,
        _of(size(stored), size(quota.storage_bytes) if quota.HasField("storage_bytes") else ""),
        _of(str(usage.device_count), str(quota.devices) if quota.HasField("devices") else ""),
        _of(str(usage.open_run_count), str(quota.runs_at_a_time) if quota.HasField("runs_at_a_time") else ""),
        _of(str(usage.day_run_count), str(quota.runs_per_day) if quota.HasField("runs_per_day") else ""),
        transferred(usage) or NONE,
    )


@group.command("usage")
def usage(
    project: Annotated[str, typer.Argument(help="One project; all where none is named.")] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Say what projects take of the hub, and what they may (docs/quotas.md)."""
    with Client() as client:
        names = [project]
        if not project:
            listed = client.all(client.projects.ListProjects, pb.ListProjectsRequest(), "projects")
            names = [each.name for each in listed.projects]
        # Counting the pictures of a large data set takes a while, the first time.
        answers = [
            client.projects.GetProjectUsage(pb.GetProjectUsageRequest(name=name), timeout=_COUNT_SECONDS)
            for name in names
        ]
    if json:
        told = [MessageToDict(answer.project_usage, **_WHOLE) for answer in answers]
        typer.echo(json_text.dumps({"project_usages": told}, indent=2))
    elif not answers:
        say("no projects yet; copy one from fleet_configs/projects, then: milonga apply -f FILE")
    else:
        table(
            ("project", "storage", "devices", "runs now", "runs in 24 hours", "downloads of its builds"),
            [_used(answer.project_usage) for answer in answers],
        )


def get_project(client: Client, project: str) -> pb.GetProjectResponse:
    """Return what the hub knows of the project. The call fails where there is none of that name."""
    return client.projects.GetProject(pb.GetProjectRequest(name=project), timeout=CALL_SECONDS)


@group.command("show")
def show(project: str, hub: Hub = None, json: Json = False) -> None:
    """Show a project's spec, and the run that its policy calls for."""
    with Client() as client:
        response = get_project(client, project)
        waiting = client.projects.GetDueRun(pb.GetDueRunRequest(name=project), timeout=CALL_SECONDS)
    if json:
        print_json(response, waiting)
        return
    spec = response.project.spec
    facts(
        (
            ("project", response.project.name),
            ("generation", response.project.spec_generation),
            ("data set", spec.dataset),
            ("devices", spec.selector or "all"),
            *(("limits", _limits(limits)) for limits in spec.limits),
            ("training", f"{spec.training.space}, {spec.training.resolution_px} px, {spec.training.epochs} epochs"),
            ("search", f"{spec.search.measured_subnets} subnets measured on each device type"),
            ("builds", ", ".join(spec.build.targets) or "what suits each device type"),
            ("rollout", f"waves of {', '.join(f'{share:.0%}' for share in spec.rollout.waves)}"),
            ("soak", number(spec.rollout.soak_seconds, "s")),
            ("shadow", _shadow(spec.rollout)),
            *_retraining(spec),
            ("due", _due(waiting.due_run) if waiting.HasField("due_run") else ""),
            ("samples", _samples(spec.samples)),
        )
    )
