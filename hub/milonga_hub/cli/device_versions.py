"""milonga devices steps, pin, unpin: how a device came to its version, and how it keeps it."""

from __future__ import annotations

from typing import Annotated

import typer
from milonga.v1 import devices_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit, version_name
from milonga_hub.cli.devices import devices, get_device
from milonga_hub.cli.output import ago, print_json, say, table


@devices.command("steps")
def list_steps(
    device: str,
    generation: Annotated[int, typer.Option(min=0, help="Only of this assignment; 0 for all.")] = 0,
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List every step that a device took on its way to its assignments, oldest first."""
    request = pb.ListDeviceStepsRequest(device=device, generation=generation)
    with Client() as client:
        response = client.all(client.devices.ListDeviceSteps, request, "steps", limit)
    if json:
        print_json(response)
    elif not response.steps:
        say(f"{device} has had no assignment yet; a rollout gives it one: milonga rollouts create MODEL/NUMBER")
    else:
        rows = (
            (
                step.generation,
                step.step.lower().replace("_", " "),
                step.attempt or 1,
                step.state.lower(),
                step.message,
                ago(step, "reported_at"),
            )
            for step in response.steps
        )
        table(("generation", "step", "attempt", "state", "message", "when"), rows, right=("generation", "attempt"))


@devices.command("pin")
def pin_device(
    device: str,
    version: Annotated[str, typer.Argument(help="MODEL/NUMBER; the version that it serves where left out.")] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Keep a device on a version: rollouts of other versions leave it out."""
    with Client() as client:
        name = version_name(version) if version else ""
        if not name:
            name = get_device(client, device).active_version
        response = client.devices.PinDevice(pb.PinDeviceRequest(name=device, model_version=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    elif response.device.pinned_version:
        say(f"{device} keeps {response.device.pinned_version}; let go of it: milonga devices unpin {device}")
    else:
        say(f"{device} serves nothing to keep; name a version: milonga devices pin {device} MODEL/NUMBER")


@devices.command("unpin")
def unpin_device(device: str, hub: Hub = None, json: Json = False) -> None:
    """Let rollouts reach a device again; it gets the version that its project's last rollout brought."""
    with Client() as client:
        response = client.devices.PinDevice(pb.PinDeviceRequest(name=device), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{device} is pinned to nothing")
