"""milonga blobs: where a hub has its pictures, models and builds. Works on the hub's own machine."""

from __future__ import annotations

import json as json_text
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milonga_hub.cli.backup import progress
from milonga_hub.cli.client import Json
from milonga_hub.cli.failures import FAILED, Refused
from milonga_hub.cli.output import facts, say, size

if TYPE_CHECKING:
    from milonga_hub.blobs.places import Stores
    from milonga_hub.settings import Settings

group = typer.Typer()

DataDir = Annotated[Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")]

_DISK = "disk"


def _settings(data_dir: Path | None) -> Settings:
    from milonga_hub.settings import Settings

    settings = Settings(data_dir=data_dir) if data_dir else Settings()
    if not (settings.data_dir / "hub.lock").exists():
        raise Refused(f"there was never a hub in {settings.data_dir}; name its folder with --data-dir")
    return settings


@group.command()
def status(data_dir: DataDir = None, json: Json = False) -> None:
    """Say where blobs are, how many there are and what they take; of a large store that takes a while."""
    from milonga_hub.blobs import places

    settings = _settings(data_dir)
    url = places.settled(settings.data_dir, settings.blobs)
    told = {"where": places.shown(url) if url else str(settings.data_dir)}
    with progress("counting", json), places.looking_at(settings.data_dir, url) as stores:
        counted = {name: [blob.size_bytes for blob in blobs.all()] for name, blobs in stores.named}
    if json:
        sums = {name: {"count": len(sizes), "size_bytes": sum(sizes)} for name, sizes in counted.items()}
        typer.echo(json_text.dumps({**told, **sums}, indent=2))
        return
    rows = ((name, f"{len(sizes)}, {size(sum(sizes))}") for name, sizes in counted.items())
    facts((("where", told["where"]), *rows))


@group.command()
def sweep(
    days: Annotated[float, typer.Option(min=0, help="Leave what was kept in so many days, whatever names it.")] = 1.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    data_dir: DataDir = None,
    database_url: Annotated[
        str | None, typer.Option(help="Database of the hub, where that is not in its folder (MILONGA_DATABASE_URL).")
    ] = None,
    json: Json = False,
) -> None:
    """Delete what nothing names: of imports that were refused or cut off, and subnets that were only measured.

    The hub must be stopped meanwhile. Data sets, models and builds in all their versions are named.
    """
    from datetime import timedelta

    from milonga_hub.blobs import places
    from milonga_hub.blobs.sweeping import sweep as swept_of
    from milonga_hub.db import Database, utc_now
    from milonga_hub.holding import hold

    settings = _settings(data_dir)
    if database_url is not None:
        settings = settings.model_copy(update={"database_url": database_url})
    folder = settings.data_dir
    held = hold(folder)
    if held is None:
        raise Refused("the hub runs, and could name a blob that is just deleted; stop it, and run this again")
    try:
        url = places.settled(folder, settings.blobs)
        database = Database(settings.resolved_database_url)
        with progress("looking", json) as tell, places.looking_at(folder, url) as stores:
            before = utc_now() - timedelta(days=days)
            swept = swept_of(
                stores.blobs, database.engine, folder, before, dry_run=dry_run, on_progress=lambda count: tell(count, 0)
            )
    finally:
        os.close(held)
    if json:
        told = {"count": swept.count, "size_bytes": swept.size_bytes, "kept": swept.kept_count, "deleted": not dry_run}
        typer.echo(json_text.dumps(told, indent=2))
        return
    verb = "would be" if dry_run else "were"
    say(f"{swept.count} blobs, {size(swept.size_bytes)}, {verb} deleted; {swept.kept_count} stay.")


@group.command()
def move(
    to: Annotated[
        str, typer.Option(metavar="URL", help="s3://BUCKET/PREFIX, file:///FOLDER, or disk: the data folder.")
    ],
    data_dir: DataDir = None,
    without_damaged: Annotated[
        bool, typer.Option("--without-damaged", help="Move although some are not what their names say; those are lost.")
    ] = False,
    json: Json = False,
) -> None:
    """Copy a hub's blobs to another store and use that from then on; what was copied before is not copied again.

    Beside a hub that runs it only copies, so that little is left to do once the hub is stopped.
    """
    from milonga_hub.blobs import places
    from milonga_hub.blobs.moving import copy_all
    from milonga_hub.holding import hold

    settings = _settings(data_dir)
    folder, url = settings.data_dir, "" if to == _DISK else to
    known = places.recorded(folder)
    if url == known:
        raise Refused(f"the blobs of this hub are in {places.shown(url) if url else folder} already")
    (folder / places.CACHE).mkdir(exist_ok=True)
    held = hold(folder)
    try:
        with places.looking_at(folder, known) as old, tempfile.TemporaryDirectory(dir=folder / places.CACHE) as cache:
            new: Stores = places.open_stores(folder, url, 0, Path(cache))
            new.prepare()
            copied = []
            for (name, source), (_, target) in zip(old.named, new.named, strict=True):
                with progress(f"copying {name}", json) as tell:
                    copied.append(copy_all(source, target, tell))
        damaged = [digest for each in copied for digest in each.damaged]
        is_moved = held is not None and (not damaged or without_damaged)
        if is_moved:
            places.record(folder, url)
    finally:
        if held is not None:
            os.close(held)
    count, size_bytes = sum(each.copied_count for each in copied), sum(each.size_bytes for each in copied)
    where = places.shown(url) if url else str(folder)
    if json:
        told = {"to": where, "moved": is_moved, "copied": count, "size_bytes": size_bytes, "damaged": damaged}
        typer.echo(json_text.dumps({**told, "there": sum(each.there_count for each in copied)}, indent=2))
    else:
        say(f"{count} blobs, {size(size_bytes)}, were copied to {where}; the others were there.")
        for digest in damaged:
            say(f"{digest} is damaged here, and was not copied; bring it back from a backup, or give --without-damaged")
        if is_moved:
            say(
                f"The hub uses {where} from its next start on. The copies in {places.shown(known) if known else folder} stay"
            )
            say("until you delete them; take MILONGA_BLOBS and --blobs out, or set them to the new place.")
        elif held is None:
            say("The hub runs, and goes on with the old place. Stop it and run this again to copy the rest and move.")
    if damaged and not without_damaged:
        raise typer.Exit(FAILED)
