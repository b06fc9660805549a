"""milonga devices logs, diagnose, restart, profile, upgrade: look after a device from afar. There is no remote shell."""

from __future__ import annotations

import sys
import time
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from milonga.v1 import devices_pb2 as pb

from milonga_hub.cli.batches import Stopped, Upgrade
from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json
from milonga_hub.cli.devices import devices
from milonga_hub.cli.failures import Refused
from milonga_hub.cli.output import print_json, say

# The device may take a while to collect.
_DIAGNOSING_SECONDS = 120.0
_FOLLOW_SECONDS = 2.0


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
    if not json:
        say(f"{device} collects; that takes some seconds")
    with Client() as client:
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
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="So many at a time: the next once these have run the new agent for a minute; none after a failure.",
        ),
    ] = None,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Want agents to take this hub's version in their own place; one that does not start gives way to the one before."""
    if bool(device) == bool(selector):
        raise typer.BadParameter("name one device, or give --selector for all that match")
    with Client() as client:
        names = [device] if device else _matching(client, selector)
        if batch is not None:
            _upgrade_in_batches(client, names, batch, json)
            return
        for name in names:
            response = client.devices.UpgradeDevice(pb.UpgradeDeviceRequest(name=name), timeout=CALL_SECONDS)
            has_it = response.device.upgrades >= response.device.wanted_upgrades
            _told(response, json, "has this hub's agent already" if has_it else "upgrades its agent", lines=not device)


def _upgrade_in_batches(client: Client, names: list[str], size: int, json: bool) -> None:
    def ask(name: str) -> pb.Device:
        response = client.devices.UpgradeDevice(pb.UpgradeDeviceRequest(name=name), timeout=CALL_SECONDS)
        if json:
            print_json(response, lines=True)
        return response.device

    def look(name: str) -> pb.Device:
        return client.devices.GetDevice(pb.GetDeviceRequest(name=name), timeout=CALL_SECONDS).device

    upgrade = Upgrade(names, size, ask, look, time.monotonic, time.sleep, say)
    try:
        upgrade.run()
    except Stopped as error:
        raise Refused(f"{error}; {upgrade.standing()}; see: milonga devices logs NAME") from error
    except KeyboardInterrupt:
        say(
            f"stopped; {upgrade.standing()}. Those on their way go on by themselves; the same command goes on with the rest."
        )
        raise


def _matching(client: Client, selector: str) -> list[str]:
    names = [found.name for found in client.hub.devices.list_devices(selector=selector)]
    if not names:
        raise Refused(f"no device matches {selector!r}; see: milonga devices list")
    return names


def _told(
    response: pb.RestartDeviceResponse | pb.ProfileDeviceResponse | pb.UpgradeDeviceResponse,
    json: bool,
    what: str,
    lines: bool = False,
) -> None:
    found = response.device
    if json:
        print_json(response, lines=lines)
    else:
        when = "now" if found.state == pb.DEVICE_STATE_ONLINE else "when it connects"
        say(f"{found.name} {what} {when}")
