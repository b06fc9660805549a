"""milonga devices logs, diagnose, restart, profile, upgrade: look after a device from afar. There is no remote shell."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from milonga.v1 import devices_pb2 as pb
from milonga.v1 import rollouts_pb2
from milonga.v1.projects_pb2 import RolloutSpec

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json
from milonga_hub.cli.devices import devices, get_device
from milonga_hub.cli.failures import FAILED, Refused
from milonga_hub.cli.output import console, print_json, say
from milonga_hub.cli.rollouts import numbers
from milonga_hub.cli.rollouttables import render_briefly, render_rehearsed
from milonga_hub.cli.runs import show_updates

# The device may take a while to collect.
_DIAGNOSING_SECONDS = 120.0
_FOLLOW_SECONDS = 2.0
_FOLLOW = "milonga rollouts watch"


@devices.command("logs")
def show_logs(
    device: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is logged, until Ctrl-C.")] = False,
    kilobytes: Annotated[int, typer.Option(min=1, max=512, help="At most so much of the newest.")] = 64,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Show what the agent of a connected device logged."""
    request = pb.GetDeviceLogRequest(name=device, max_bytes=1024 * kilobytes)
    with Client() as client:
        while True:
            response = client.devices.GetDeviceLog(request, timeout=CALL_SECONDS)
            if json:
                print_json(response, lines=follow)
            else:
                # As it is: log lines are not to be wrapped.
                sys.stdout.write("".join(c for c in response.text if c.isprintable() or c in "\n\t"))
                sys.stdout.flush()
            if not follow:
                return
            request.cursor = response.cursor
            time.sleep(_FOLLOW_SECONDS)


@devices.command("diagnose")
def diagnose(
    device: str,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; DEVICE-diagnostics.tar.gz if left out.")
    ] = None,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Fetch log, state, inventory, versions and checks of a connected device as one file, without secrets."""
    path = output or Path(f"{device}-diagnostics.tar.gz")
    with Client() as client:
        if not json:
            get_device(client, device)
            say(f"{device} collects; that takes some seconds")
        response = client.devices.DiagnoseDevice(pb.DiagnoseDeviceRequest(name=device), timeout=_DIAGNOSING_SECONDS)
    try:
        path.write_bytes(response.content)
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror}; choose another with --output") from error
    if json:
        typer.echo(dumps({"file": str(path), "size_bytes": len(response.content)}))
    else:
        say(f"{path}, {len(response.content)} bytes; look into it: tar xzf {path}")


@devices.command("restart")
def restart(device: str, hub: Hub = None, json: Json = False) -> None:
    """Want a device's agent to start anew, with the model's process; the machine itself goes on."""
    with Client() as client:
        response = client.devices.RestartDevice(pb.RestartDeviceRequest(name=device), timeout=CALL_SECONDS)
    _told(response, json, "starts anew")


@devices.command("profile")
def profile(device: str, hub: Hub = None, json: Json = False) -> None:
    """Want a device to probe its hardware and time its model again; `devices show` and its page have the result."""
    with Client() as client:
        response = client.devices.ProfileDevice(pb.ProfileDeviceRequest(name=device), timeout=CALL_SECONDS)
    _told(response, json, "profiles itself again")


@devices.command("upgrade")
def upgrade(
    device: Annotated[str, typer.Argument(help="Name of a device; leave it out with --selector.")] = "",
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="All devices that match, such as canary or site=busan.")
    ] = "",
    batch: Annotated[int | None, typer.Option(min=1, help="So many on their way at a time; all if left out.")] = None,
    canaries: Annotated[
        str, typer.Option(help="Selector of the devices that go first; the others once these are well.")
    ] = "",
    waves: Annotated[str, typer.Option(help="Shares of the devices, for example 0.1,0.9; one wave if left out.")] = "",
    soak_seconds: Annotated[float, typer.Option(min=0, help="How long a wave must stay well before the next.")] = 0.0,
    max_failure_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a wave that may fail before it pauses.")
    ] = 0.0,
    window: Annotated[
        list[str],
        typer.Option(help='When devices may begin, in their own time zone: "sat,sun 02:00-05:00"; repeatable.'),
    ] = [],  # noqa: B006
    detach: Annotated[bool, typer.Option("--detach", help="Begin, and do not follow it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Let agents take this hub's version in their own place; one that does not start gives way to the one before.

    With --selector the hub works it off as a rollout, which goes on when this command ends. The exit code is 0 if it succeeded.
    """
    if bool(device) == bool(selector):
        raise typer.BadParameter("name one device, or give --selector for all that match")
    asked = {
        "--batch": batch, "--canaries": canaries, "--waves": waves, "--soak-seconds": soak_seconds,
        "--max-failure-ratio": max_failure_ratio, "--window": window, "--detach": detach, "--dry-run": dry_run,
    }  # fmt: skip
    if device and (first := next((option for option, given in asked.items() if given), "")):
        raise typer.BadParameter(f"{first} is for rollouts: give --selector name={device} in the place of {device}")
    with Client() as client:
        if device:
            response = client.devices.UpgradeDevice(pb.UpgradeDeviceRequest(name=device), timeout=CALL_SECONDS)
            has_it = response.device.upgrades >= response.device.wanted_upgrades
            _told(response, json, "has this hub's agent already" if has_it else "upgrades its agent")
            return
        spec = RolloutSpec(
            # What is not said here is what holds for agents.
            waves=numbers("--waves", waves, float, "shares such as 0.1,0.9"),
            soak_seconds=soak_seconds,
            max_failure_ratio=max_failure_ratio,
            max_concurrent=batch or 0,
            canaries=canaries,
            windows=window,
        )
        request = rollouts_pb2.UpgradeAgentsRequest(
            selector=selector, spec=spec, request_id=uuid.uuid4().hex, dry_run=dry_run
        )
        made = client.rollouts.UpgradeAgents(request, timeout=CALL_SECONDS)
        if dry_run or detach:
            _began(made, dry_run, json)
        elif not _succeeds(client, made.rollout.id, json):
            raise typer.Exit(FAILED)


def _began(made: rollouts_pb2.UpgradeAgentsResponse, rehearsed: bool, json: bool) -> None:
    if json:
        print_json(made)
        return
    console().print(render_rehearsed(made.rollout) if rehearsed else render_briefly(made.rollout))
    say("nothing was done; leave out --dry-run to begin" if rehearsed else f"follow it: {_FOLLOW} {made.rollout.id}")


def _succeeds(client: Client, id: str, json: bool) -> bool:
    """Follow the rollout until it has ended or needs a person; return whether all is well."""
    try:
        if not json:
            say(f"{id} goes on in the hub whatever becomes of this command")
        updates = _until_it_stops(client, id)
        last = show_updates(updates, "rollout", render_briefly, json)
    except KeyboardInterrupt:
        # Not among the results, which programs may read.
        typer.echo(f"{id} goes on; follow it: {_FOLLOW} {id}; hold it up: milonga rollouts pause {id}", err=True)
        raise
    return last is not None and last.state == rollouts_pb2.ROLLOUT_STATE_SUCCEEDED


def _until_it_stops(client: Client, id: str) -> Iterator[rollouts_pb2.WatchRolloutResponse]:
    for rollout in client.hub.rollouts.watch_rollout(id):
        yield rollouts_pb2.WatchRolloutResponse(rollout=rollout)
        if rollout.state == rollouts_pb2.ROLLOUT_STATE_PAUSED:
            return


def _told(
    response: pb.RestartDeviceResponse | pb.ProfileDeviceResponse | pb.UpgradeDeviceResponse,
    json: bool,
    what: str,
) -> None:
    told = response.device
    if json:
        print_json(response)
    else:
        when = "now" if told.state == pb.DEVICE_STATE_ONLINE else "when it connects"
        say(f"{told.name} {what} {when}")
