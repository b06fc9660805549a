"""milonga migrate."""

from __future__ import annotations

import json as json_text
import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from milonga_hub.cli.client import Json
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import say


def migrate(
    to: Annotated[
        str, typer.Option(metavar="REVISION", help="Where to go, up or down; base is an empty database.")
    ] = "head",
    show: Annotated[bool, typer.Option("--list", help="Only list the revisions, and which of them are there.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Only print the statements.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Go down without asking; what a revision added is lost.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="URL of the database, as for milonga up (MILONGA_DATABASE_URL).")
    ] = None,
    json: Json = False,
) -> None:
    """Bring the tables of a hub that is stopped to a revision. A hub that starts goes up by itself."""
    from milonga_hub.db import Database
    from milonga_hub.holding import hold
    from milonga_hub.migrations import running
    from milonga_hub.settings import Settings

    given: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    if not settings.database_url and not (settings.data_dir / "milonga.db").exists():
        raise Refused(
            f"there is no hub's database in {settings.data_dir}; name the hub's folder with --data-dir", USAGE
        )
    with closing(Database(settings.resolved_database_url)) as database:
        if sql:
            typer.echo(running.sql(database.engine, to))
            return
        before = running.revisions(database.engine)
        if not show:
            lost = [each for each in before if each.reached and each.name not in running.reached_at(to)]
            if lost and not yes:
                say(
                    f"This undoes {', '.join(f'{each.name} ({each.about})' for each in lost)}. What was only there is lost."
                )
                typer.confirm("Go down?", abort=True)
            with ExitStack() as stack:
                if not settings.database_url:
                    held = hold(settings.data_dir)
                    if held is None:
                        raise Refused(f"a hub is using the data folder {settings.data_dir}; stop it first")
                    stack.callback(os.close, held)
                database.hold()
                running.migrate(database.engine, to)
        after = running.revisions(database.engine)
    if json:
        told = [{"revision": each.name, "about": each.about, "reached": each.reached} for each in after]
        typer.echo(json_text.dumps({"revisions": told}, indent=2))
        return
    for each in after:
        say(f"{each.name}  {'there' if each.reached else 'not there':<9}  {each.about}")
