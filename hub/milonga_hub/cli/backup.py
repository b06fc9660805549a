"""milonga backup, restore."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from milonga_hub.cli.client import Json
from milonga_hub.cli.output import say, size

if TYPE_CHECKING:
    from milonga_hub.settings import Settings

_DataDir = Annotated[Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")]

_DatabaseUrl = Annotated[
    str | None, typer.Option(help="Database of the hub, where that is not in its folder (MILONGA_DATABASE_URL).")
]


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it, for example hub-2026-11-26.tar.")],
    data_dir: _DataDir = None,
    database_url: _DatabaseUrl = None,
    runs: Annotated[
        bool, typer.Option(help="Take the folders of runs along: supernets to train on from, and the largest part.")
    ] = True,
    blobs: Annotated[
        bool,
        typer.Option("--blobs", help="Take blobs along that are elsewhere, in an object store; else they stay there."),
    ] = False,
    json: Json = False,
) -> None:
    """Write all of a hub to one file, on the hub's machine, while the hub runs. It holds the hub's keys: keep it safe."""
    from milonga_hub.backup.making import back_up

    settings = _settings(data_dir, database_url)
    with progress("backing up", json) as tell:
        made = back_up(
            settings.data_dir,
            file,
            database_url=settings.database_url,
            with_runs=runs,
            with_blobs=blobs,
            on_progress=tell,
        )
    if json:
        told = {**made.about.model_dump(mode="json"), "file": str(made.path)}
        typer.echo(json_text.dumps({**told, "file_count": made.file_count, "size_bytes": made.size_bytes}, indent=2))
        return
    say(
        f"{made.path}: {made.file_count} files, {size(made.size_bytes)}. It holds the hub's keys: keep it where they may be."
    )
    if made.about.blobs_elsewhere:
        say(
            f"Pictures, models and builds stay in {made.about.blobs_elsewhere}: keep earlier versions there, or take --blobs."
        )
    say(f"To use it: milonga restore {made.path} --data-dir NEW-FOLDER")


def restore(
    file: Annotated[Path, typer.Argument(help="What milonga backup wrote.")],
    data_dir: Annotated[Path, typer.Option(help="A new folder, for the hub that is made of it.")],
    database_url: _DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Make a hub's data folder out of a backup; devices find it at the addresses of the old one."""
    from milonga_hub.backup.restoring import restore as restored_from

    settings = _settings(data_dir, database_url)
    with progress("restoring", json) as tell:
        restored = restored_from(file, data_dir, tell, database_url=settings.database_url)
    if json:
        told = {**restored.about.model_dump(mode="json"), "data_dir": str(restored.data_dir)}
        typer.echo(
            json_text.dumps({**told, "file_count": restored.file_count, "unsigned": restored.unsigned}, indent=2)
        )
        return
    say(
        f"{restored.data_dir}: {restored.file_count} files, as they were on {restored.about.made_at:%Y-%m-%d at %H:%M} UTC."
    )
    if restored.about.blobs_elsewhere:
        say(
            f"Pictures, models and builds are in {restored.about.blobs_elsewhere}: this hub needs the same access to it."
        )
    for role in restored.unsigned:
        say(f"Keys of {role} are elsewhere. Devices may have seen a later version; renew it: milonga keys renew {role}")
    say(
        "What came later is not in it: revoke again whom you revoked since, and approve the devices that joined since; they"
        " ask by themselves."
    )
    say(f"Stop the old hub, then start this one: milonga up --data-dir {restored.data_dir}")


def _settings(data_dir: Path | None, database_url: str | None) -> Settings:
    from milonga_hub.settings import Settings

    given: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url}
    return Settings(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
