"""milonga agent-bundle."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from milonga_hub.cli.client import Json
from milonga_hub.cli.output import clean, say, size


def agent_bundle(
    platform: Annotated[str, typer.Option(help="Processor of the devices: x86_64 or aarch64 (uname -m tells).")],
    python: Annotated[str, typer.Option(help="Python of the devices, for example 3.11 (python3 --version tells).")],
    engines: Annotated[str, typer.Option(help="Engines, separated by commas.")] = "onnxruntime",
    data_dir: Annotated[
        Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")
    ] = None,
    json: Json = False,
) -> None:
    """Prepare, on the hub's machine, all that agents need on devices without internet; the hub serves it at once."""
    from milonga_hub.errors import InvalidInput
    from milonga_hub.install.reach import pages_for_others
    from milonga_hub.install.wheelhouse import Kind, Platform, Wheelhouses
    from milonga_hub.settings import Settings

    if platform not in tuple(Platform):
        raise InvalidInput(f"there is no platform {platform!r}; choose among: {', '.join(Platform)}")
    kind = Kind(Platform(platform), python)
    settings = Settings(data_dir=data_dir) if data_dir else Settings()
    names = [name.strip() for name in engines.split(",") if name.strip()]
    houses = Wheelhouses(settings.data_dir / "wheelhouses")
    folder = houses.prepare(kind, names, lambda line: typer.echo(clean(line), err=True))
    wheels = houses.wheels(kind)
    size_bytes = sum(path.stat().st_size for path in wheels)
    if json:
        told = {"folder": str(folder), "size_bytes": size_bytes, "wheels": [path.name for path in wheels]}
        typer.echo(json_text.dumps(told, indent=2))
        return
    say(f"{len(wheels)} wheels, {size(size_bytes)}, in {folder}")
    dashboard, is_reachable = pages_for_others(settings)
    if not is_reachable:
        say("Only this machine reaches the hub; to let devices in, start it with: milonga up --host 0.0.0.0")
    say(
        f"On such a device ({dashboard} is this hub's dashboard, unless the device knows another way to it; milonga tokens create makes TOKEN):"
    )
    typer.echo(f"  curl -fsSL {dashboard}/install.sh | sudo sh -s -- --token TOKEN --offline")
