"""milonga plugins: code of others on this machine, and whether it can be used. Needs no hub."""

from __future__ import annotations

import json as json_text
import sys
from dataclasses import asdict

import typer
from rich.console import Console

from milonga_hub.cli.client import Json
from milonga_hub.cli.output import clean, say, table

group = typer.Typer()

_KINDS = {
    "milonga.spaces": "space",
    "milonga.backends": "back end",
    "milonga.runtimes": "runtime",
    "milonga.preprocessing": "pre-processing",
}


@group.command("list")
def list_plugins(json: Json = False) -> None:
    """List the plug-ins that are installed beside this command, load each, and say what is wrong with it."""
    from milonga_hub.plugged import RUNTIMES, examined

    shown = Console(stderr=True, quiet=json or not sys.stderr.isatty())
    with shown.status("loading plug-ins"):
        found = examined()
    if json:
        typer.echo(json_text.dumps({"plugins": [asdict(one) for one in found]}, indent=2))
        return
    if not found:
        say("no plug-in is installed here; docs/plugins.md says how one is written")
        return
    table(
        ["KIND", "NAME", "FROM", "STATE"],
        [
            (
                _KINDS[one.group],
                clean(one.name),
                clean(f"{one.distribution} {one.version}"),
                _state(one.problem, one.group == RUNTIMES),
            )
            for one in found
        ],
    )
    for one in found:
        if one.problem:
            say(f"{clean(one.name)} of {clean(one.distribution)} is left out: {clean(one.problem)}")


def _state(problem: str, for_devices: bool) -> str:
    if problem:
        return "left out"
    return "for devices" if for_devices else "usable"
