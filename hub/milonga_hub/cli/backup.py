"""milonga backup, restore."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from milonga_hub.cli.client import Json
from milonga_hub.cli.output import say, size

_DataDir = Annotated[Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")]


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it, for example hub-2026-11-26.tar.")],
    data_dir: _DataDir = None,
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
    from milonga_hub.errors import FailedPrecondition
    from milonga_hub.settings import Settings

    settings = Settings(data_dir=data_dir) if data_dir else Settings()
    if settings.database_url:
        raise FailedPrecondition(
            "this hub's database is elsewhere (MILONGA_DATABASE_URL): back it up by its own means, such as pg_dump, and then"
            " copy the data folder"
        )
    with progress("backing up", json) as tell:
        made = back_up(settings.data_dir, file, with_runs=runs, with_blobs=blobs, on_progress=tell)
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
    json: Json = False,
) -> None:
    """Make a hub's data folder out of a backup; devices find it at the addresses of the old one."""
    from milonga_hub.backup.restoring import restore as restored_from

    with progress("restoring", json) as tell:
        restored = restored_from(file, data_dir, tell)
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


@contextmanager
def progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
