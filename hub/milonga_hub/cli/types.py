"""milonga types: those of the fleet, and the boards that are known by name."""

from __future__ import annotations

import json as json_text
import sys
from typing import Annotated

import typer
from milonga.v1 import devices_pb2 as pb

from milonga_hub.cli.client import Client, Hub, Json, Limit
from milonga_hub.cli.failures import NOT_FOUND, Refused
from milonga_hub.cli.output import NONE, facts, print_json, say, size, table

group = typer.Typer()

_MIB = 1 << 20


@group.command("list")
def list_types(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List the device types of the fleet."""
    response = _types(limit)
    if json:
        print_json(response)
    elif not response.device_types:
        say("no device types yet; they come with the first device: milonga tokens create")
    else:
        rows = (
            (
                _named(one),
                one.device_count,
                f"{one.inventory.cores} cores, {size(one.inventory.memory_bytes)}",
                one.known_type or NONE,
                ", ".join(one.targets) or NONE,
                one.verification,
            )
            for one in response.device_types
        )
        columns = ("type", "devices", "hardware", "known as", "builds unless told", "verification")
        table(columns, rows, right=("devices",))


@group.command("show")
def show_type(device_type: str, hub: Hub = None, json: Json = False) -> None:
    """Show one device type of the fleet, with what is built for it unless a project names targets."""
    found = next((one for one in _types(0).device_types if one.name == device_type), None)
    if found is None:
        raise Refused(f"no device type {device_type!r}; see: milonga types list, milonga types known", NOT_FOUND)
    if json:
        print_json(found)
        return
    engines = [f"{engine.name} {engine.version} ({', '.join(engine.precisions)})" for engine in found.inventory.engines]
    facts(
        (
            ("type", _named(found)),
            ("devices", found.device_count),
            ("board", found.inventory.board),
            ("known as", found.known_type or "no board that is known by name"),
            ("verification", found.verification),
            ("hardware", f"{found.inventory.architecture}, {found.inventory.cores} cores"),
            ("memory", size(found.inventory.memory_bytes)),
            ("accelerators", ", ".join(f"{each.kind} {each.model}" for each in found.inventory.accelerators)),
            ("engines", ", ".join(engines) or NONE),
            ("builds", ", ".join(found.targets) or "nothing: neither hub nor device has an engine in common"),
        )
    )


@group.command("known")
def known_types(
    name: Annotated[str, typer.Argument(help="Show this one with all that is known of it.")] = "", json: Json = False
) -> None:
    """List the boards that are known by name, as fleet_configs/device_types has them. Needs no hub."""
    from milonga_hub.devices.known import shipped

    entries = [entry for entry in shipped() if name in ("", entry.name)]
    if not entries:
        raise Refused(f"no board is known as {name!r}; see: milonga types known", NOT_FOUND)
    if json:
        sys.stdout.write(
            json_text.dumps({"known_types": [one.model_dump(mode="json") for one in entries]}, indent=2) + "\n"
        )
    elif not name:
        rows = ((one.name, one.spec.title, ", ".join(one.spec.targets), one.spec.verification) for one in entries)
        table(("name", "board", "builds unless told", "verification"), rows)
    else:
        spec = entries[0].spec
        facts(
            (
                ("name", name),
                ("board", spec.title),
                ("architecture", spec.architecture),
                ("memory", " or ".join(size(mib * _MIB) for mib in spec.memory_mib)),
                ("boards", ", ".join(spec.match.boards)),
                ("compatible", ", ".join(spec.match.compatible)),
                ("accelerator", spec.match.accelerator),
                ("builds", ", ".join(spec.targets)),
                ("verification", spec.verification),
                ("notes", spec.notes.strip()),
            )
        )


def _types(limit: int) -> pb.ListDeviceTypesResponse:
    with Client() as client:
        found = client.all(client.devices.ListDeviceTypes, pb.ListDeviceTypesRequest(), "device_types", limit)
    assert isinstance(found, pb.ListDeviceTypesResponse)
    return found


def _named(device_type: pb.DeviceType) -> str:
    return f"{device_type.name} (simulated)" if device_type.simulated else device_type.name
