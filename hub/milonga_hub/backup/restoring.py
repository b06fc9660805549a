"""Make a hub out of a backup: whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from milonga_hub.backup import tables
from milonga_hub.backup.contents import (
    ABOUT,
    DATABASE,
    DIGESTS,
    FORMAT,
    About,
    Digests,
    OnProgress,
    disk_errors,
    is_safe,
)
from milonga_hub.db import Database
from milonga_hub.errors import AlreadyExists, InvalidInput
from milonga_hub.signing.service import SigningService

_CHUNK_BYTES = 1 << 20
# Far more than a hub signs between two backups; versions have room for nine digits.
_VERSIONS_AHEAD = 10_000


@dataclass(frozen=True)
class Restored:
    """A hub that can be started; `unsigned` names the roles whose keys are elsewhere, which devices may refuse until then."""

    data_dir: Path
    about: About
    file_count: int
    unsigned: list[str]


def restore(
    source: Path, data_dir: Path, on_progress: OnProgress = lambda done, total: None, *, database_url: str = ""
) -> Restored:
    """Make the folder of a hub, and fill its database where that is elsewhere.

    Raises InvalidInput for what is no whole backup, AlreadyExists where a folder or the database has something.
    """
    if data_dir.exists() and any(data_dir.iterdir()):
        raise AlreadyExists(
            f"{data_dir} is not empty; restore into a new folder, and start the hub with that --data-dir"
        )
    part = data_dir.with_name(f".{data_dir.name}.restoring")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(data_dir, "restore elsewhere"):
            part.mkdir(parents=True, mode=0o700)
            about, count = _extract(source, part, on_progress)
            unsigned = SigningService(part / "signing").overtake(_VERSIONS_AHEAD)
            if database_url:
                tables.fill(Database(database_url), part / DATABASE)
                for path in part.glob(f"{DATABASE}*"):
                    path.unlink()
            if data_dir.exists():
                data_dir.rmdir()
            part.replace(data_dir)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Restored(data_dir, about, count, unsigned)


def about(source: Path) -> About:
    """Return what a backup says of itself. Raises InvalidInput."""
    with _opened(source) as archive:
        return _about(source, archive, archive.next())


def _extract(source: Path, folder: Path, on_progress: OnProgress) -> tuple[About, int]:
    digests: dict[str, str] = {}
    told: Digests | None = None
    with _opened(source) as archive:
        total = source.stat().st_size
        about = _about(source, archive, archive.next())
        while (member := archive.next()) is not None:
            if told is not None or not member.isreg() or not is_safe(member.name):
                raise InvalidInput(f"{source} holds {member.name!r}, which no backup has; take another one")
            content = archive.extractfile(member)
            assert content is not None
            if member.name == DIGESTS:
                told = Digests.model_validate_json(content.read())
                continue
            digests[member.name] = _keep(content, folder / member.name, member.mode & 0o777)
            on_progress(archive.offset, total)
    if told is None:
        raise InvalidInput(
            f"{source} is cut off: it does not say what it should hold; copy it again, or take another one"
        )
    told.sha256.pop(ABOUT, None)
    damaged = sorted(name for name in {*told.sha256, *digests} if told.sha256.get(name) != digests.get(name))
    if damaged:
        raise InvalidInput(f"{source} is damaged at {damaged[0]}; copy it again, or take another one")
    return about, len(digests)


def _keep(content: IO[bytes], path: Path, mode: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _about(source: Path, archive: tarfile.TarFile, first: tarfile.TarInfo | None) -> About:
    content = archive.extractfile(first) if first is not None and first.name == ABOUT and first.isreg() else None
    if content is None:
        raise InvalidInput(f"{source} is not a backup of a hub; milonga backup makes one")
    told = About.model_validate_json(content.read())
    if told.format > FORMAT:
        raise InvalidInput(f"{source} was made by Milonga {told.milonga}, which is newer; update this one first")
    return told


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:") as archive:
            yield archive
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no {source}") from error
    except (tarfile.TarError, ValidationError, EOFError) as error:
        raise InvalidInput(f"{source} is not a whole backup ({error}); copy it again, or take another one") from error
