"""milonga rollouts."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer
from milonga.v1 import common_pb2
from milonga.v1 import rollouts_pb2 as pb
from milonga.v1.projects_pb2 import RolloutSpec

from milonga_hub.cli.asking import ask
from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit, version_name
from milonga_hub.cli.failures import FAILED, USAGE, Refused
from milonga_hub.cli.output import NONE, ago, console, print_json, say, table, word
from milonga_hub.cli.rollouttables import brings, render_briefly, render_rehearsed, render_rollout
from milonga_hub.cli.runs import show_updates

group = typer.Typer()

Id = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id; see: milonga rollouts list.")]

# False where they were left out.
_FLAGS = {"approval", "roll_back"}


def _spec(waves: str, wave_sizes: str, **values: Any) -> RolloutSpec | None:
    """Return the spec of the options that were given, None where none was."""
    given = {name: value for name, value in values.items() if value is not None and value not in ("", [])}
    if not (waves or wave_sizes or any(given[name] for name in _FLAGS) or given.keys() - _FLAGS):
        return None
    return RolloutSpec(
        waves=numbers("--waves", waves, float, "shares such as 0.1,0.9"),
        wave_sizes=numbers("--wave-sizes", wave_sizes, int, "numbers of devices such as 1,10"),
        **given,
    )


def _shadow(
    go_on: bool, minutes: float | None, min_requests: int | None, max_disagreement: float | None, share: float | None
) -> common_pb2.ShadowSpec | None:
    """Return the shadow of the options that were given, None where none was."""
    if not go_on and (minutes, min_requests, max_disagreement, share) == (None,) * 4:
        return None
    few = common_pb2.TOO_FEW_REQUESTS_GO_ON if go_on else common_pb2.TOO_FEW_REQUESTS_UNSPECIFIED
    return common_pb2.ShadowSpec(
        minutes=minutes,
        min_requests=min_requests or 0,
        max_disagreement=max_disagreement,
        share=share,
        too_few_requests=few,
    )


def numbers(option: str, text: str, kind: Any, example: str) -> list[Any]:
    """Return the numbers of "0.1,0.9"."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise Refused(f"{option} takes {example}; {text!r} is not that", USAGE) from error


def _print(response: Any, json: bool) -> None:
    if json:
        print_json(response)
    else:
        console().print(render_briefly(response.rollout))


@group.command("create")
def create(
    version: Annotated[str, typer.Argument(help="models/MODEL/versions/NUMBER, or short MODEL/NUMBER.")],
    selector: Annotated[str, typer.Option("--selector", "-l", help="Which devices; the project's if left out.")] = "",
    waves: Annotated[str, typer.Option(help="Shares of the devices, for example 0.1,0.9; else the project's.")] = "",
    soak_seconds: Annotated[float | None, typer.Option(min=0, help="How long a wave must stay healthy.")] = None,
    max_failure_ratio: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of a wave that may fail before it pauses.")
    ] = None,
    canaries: Annotated[str, typer.Option(help="Selector of the devices that make a wave of their own, first.")] = "",
    wave_sizes: Annotated[str, typer.Option(help="Devices of the next waves, for example 1,10.")] = "",
    priority: Annotated[
        list[str], typer.Option(help="Selector of devices that come earlier; repeatable, the first comes first.")
    ] = [],  # noqa: B006
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Devices on their way at a time.")] = None,
    window: Annotated[
        list[str],
        typer.Option(help='When devices may begin, in their own time zone: "sat,sun 02:00-05:00"; repeatable.'),
    ] = [],  # noqa: B006
    late_after_seconds: Annotated[
        float | None, typer.Option(min=0, help="How long a device may be off line before its wave goes on without it.")
    ] = None,
    shadow_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Run it beside the one that serves for so long, and compare, before it serves."),
    ] = None,
    shadow_min_requests: Annotated[
        int | None, typer.Option(min=1, help="Requests that the shadow must see; 50 if left out.")
    ] = None,
    shadow_max_disagreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of its answers that may differ; 0.1 if left out.")
    ] = None,
    shadow_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the requests that are copied to it; 1 if left out.")
    ] = None,
    shadow_go_on: Annotated[
        bool, typer.Option("--shadow-go-on", help="Go on also where the shadow saw too few requests.")
    ] = False,
    max_error_increase: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Stop where so much more of the requests fail than on devices without it."),
    ] = None,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Where it stops itself, go back to the version before.")
    ] = False,
    approval: Annotated[bool, typer.Option("--approval", help="Begin when a person approves.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Send a model version to devices, wave by wave."""
    spec = _spec(
        waves,
        wave_sizes,
        soak_seconds=soak_seconds,
        max_failure_ratio=max_failure_ratio,
        canaries=canaries,
        priorities=priority,
        max_concurrent=max_concurrent,
        windows=window,
        late_after_seconds=late_after_seconds,
        approval=approval,
        max_error_increase=max_error_increase,
        roll_back=roll_back,
        shadow=_shadow(shadow_go_on, shadow_minutes, shadow_min_requests, shadow_max_disagreement, shadow_share),
    )
    request = pb.CreateRolloutRequest(
        model_version=version_name(version),
        selector=selector,
        spec=spec,
        request_id=uuid.uuid4().hex,
        dry_run=dry_run,
    )
    with Client() as client:
        response = client.rollouts.CreateRollout(request, timeout=CALL_SECONDS)
    if dry_run and not json:
        console().print(render_rehearsed(response.rollout))
        say("nothing was done; leave out --dry-run to begin")
        return
    _print(response, json)
    if not json:
        say(f"follow it: milonga rollouts watch {response.rollout.id}")


@group.command("list")
def list_(
    project: Annotated[str, typer.Option("--project", help="Only of this project.")] = "",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List rollouts, the newest first."""
    with Client() as client:
        request = pb.ListRolloutsRequest(project=project)
        response = client.all(client.rollouts.ListRollouts, request, "rollouts", limit)
    if json:
        print_json(response)
    elif not response.rollouts:
        say("no rollouts yet; a run makes one, or: milonga rollouts create MODEL/NUMBER")
    else:
        rows = (
            (
                r.id,
                brings(r),
                word(pb.RolloutState, r.state),
                f"{sum(w.succeeded_count for w in r.waves)} of {sum(w.device_count for w in r.waves)}",
                ago(r, "created_at"),
                r.reason or NONE,
            )
            for r in response.rollouts
        )
        table(("rollout", "version", "state", "devices", "started", "reason"), rows)


def _get(client: Client, rollout: str) -> pb.GetRolloutResponse:
    """Return what the hub knows of the rollout. The call fails where there is none of that name."""
    return client.rollouts.GetRollout(pb.GetRolloutRequest(id=rollout), timeout=CALL_SECONDS)


@group.command("show")
def show(rollout: Id, hub: Hub = None, json: Json = False) -> None:
    """Show a rollout with its waves and devices."""
    with Client() as client:
        response = _get(client, rollout)
    if json:
        print_json(response)
    else:
        console().print(render_rollout(response.rollout))


@group.command("pause")
def pause(rollout: Id, hub: Hub = None, json: Json = False) -> None:
    """Begin no further wave until `resume`."""
    with Client() as client:
        response = client.rollouts.PauseRollout(pb.PauseRolloutRequest(id=rollout), timeout=CALL_SECONDS)
    _print(response, json)


@group.command("resume")
def resume(rollout: Id, hub: Hub = None, json: Json = False) -> None:
    """Go on, and let devices that failed try again."""
    with Client() as client:
        response = client.rollouts.ResumeRollout(pb.ResumeRolloutRequest(id=rollout), timeout=CALL_SECONDS)
    _print(response, json)


@group.command("approve")
def approve(rollout: Id, hub: Hub = None, json: Json = False) -> None:
    """Let a rollout begin that waits for a person."""
    with Client() as client:
        response = client.rollouts.ApproveRollout(pb.ApproveRolloutRequest(id=rollout), timeout=CALL_SECONDS)
    _print(response, json)


@group.command("retry")
def retry(rollout: Id, hub: Hub = None, json: Json = False) -> None:
    """Let the devices that failed try again, and no others; also where the rollout has succeeded."""
    with Client() as client:
        response = client.rollouts.RetryRollout(pb.RetryRolloutRequest(id=rollout), timeout=CALL_SECONDS)
    _print(response, json)


@group.command("abort")
def abort(
    rollout: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Stop for good; devices that have not begun keep what they have, those on their way finish."""
    with Client() as client:
        if not yes and not json:
            ask(f"Stop {rollout} for good?", f"{rollout} goes on", lambda: _get(client, rollout))
        response = client.rollouts.AbortRollout(pb.AbortRolloutRequest(id=rollout), timeout=CALL_SECONDS)
    _print(response, json)


@group.command("roll-back")
def roll_back(
    rollout: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """End a project's newest rollout, and let the devices that have its version go back to the one before."""
    with Client() as client:
        if not yes and not json:
            ask(f"Take {rollout} back?", f"{rollout} stays as it is", lambda: _get(client, rollout))
        response = client.rollouts.RollBackRollout(pb.RollBackRolloutRequest(id=rollout), timeout=CALL_SECONDS)
    _print(response, json)
    if not json:
        say(f"follow it: milonga rollouts watch {response.rollout.id}")


@group.command("watch")
def watch(rollout: Id, hub: Hub = None, json: Json = False) -> None:
    """Follow a rollout live until it ends. The exit code is 0 if it succeeded and 1 if not."""
    with Client() as client:
        updates = (pb.WatchRolloutResponse(rollout=each) for each in client.hub.rollouts.watch_rollout(rollout))
        last = show_updates(updates, "rollout", render_briefly, json)
    if last is None or last.state != pb.ROLLOUT_STATE_SUCCEEDED:
        raise typer.Exit(FAILED)
