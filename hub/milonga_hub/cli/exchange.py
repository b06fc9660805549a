"""milonga import."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from milonga_hub.cli.client import Json
from milonga_hub.cli.output import clean, say

group = typer.Typer()


@group.callback()
def _only_groups() -> None:
    """Bring projects of other tools here."""


@group.command("tango")
def tango(
    folder: Annotated[Path, typer.Argument(help="A TANGO project's folder, with project_info.yaml in it.")],
    name: Annotated[
        str, typer.Option("--name", help="Of the project and its data set; empty: that of the folder.")
    ] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The project file; empty: NAME.yaml.")] = None,
    json: Json = False,
) -> None:
    """Write a project file that is equal to a project of TANGO, and say what has no equal."""
    from milonga_hub.errors import AlreadyExists
    from milonga_hub.exchange.tango import read

    found = read(folder, name)
    path = output or Path(f"{found.name}.yaml")
    if path.exists():
        raise AlreadyExists(f"{path} is there already; name another file with --output")
    path.write_text(found.text, encoding="utf-8")
    if json:
        pictures = None if found.pictures is None else str(found.pictures)
        told = {"name": found.name, "file": str(path), "pictures": pictures, "notes": found.notes}
        typer.echo(json_text.dumps(told, indent=2, ensure_ascii=False))
        return
    say(f"{path} is the project {found.name}.")
    for note in found.notes:
        say(f"  {clean(note)}")
    say("Then:")
    typer.echo(f"  milonga datasets import {clean(found.pictures or 'FOLDER')} --name {found.name}")
    typer.echo(f"  milonga apply -f {path}")
