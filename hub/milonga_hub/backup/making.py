"""Make a backup, also of a hub that runs: nothing has to stop, and what is in the file fits together."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO

from milonga_hub.authority import Authority
from milonga_hub.backup import tables
from milonga_hub.backup.contents import ABOUT, DATABASE, DIGESTS, About, Digests, OnProgress, disk_errors, is_kept
from milonga_hub.blobs import places
from milonga_hub.blobs.interface import key_of
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import AlreadyExists, InvalidInput
from milonga_hub.signing.service import SigningService

# Logs grow while they are read, and are small; what is large is only ever replaced as a whole.
_AT_ONCE_BYTES = 8 << 20


@dataclass(frozen=True)
class Made:
    """A backup that is whole."""

    path: Path
    about: About
    file_count: int
    size_bytes: int


def back_up(
    data_dir: Path,
    target: Path,
    *,
    database_url: str = "",
    with_runs: bool = True,
    with_blobs: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Made:
    """Write all of a hub to a file that only this user may read: it holds the hub's keys.

    Blobs that lie elsewhere stay there, or `with_blobs` come along, and then into the data folder that is restored.
    `database_url` is the hub's setting. Raises InvalidInput where there is no hub, AlreadyExists where the file is there,
    ResourceExhausted on a full disk.
    """
    there = data_dir / ("authority" if database_url else DATABASE)
    if not there.exists():
        raise InvalidInput(f"there is no hub's database in {data_dir}; name the hub's folder with --data-dir")
    if target.exists():
        raise AlreadyExists(f"{target} is there already; choose another name")
    about = About(
        milonga=version("milonga-hub"),
        made_at=utc_now(),
        fingerprint=Authority(data_dir / "authority").fingerprint,
        with_runs=with_runs,
        blobs_elsewhere="" if with_blobs else places.shown(places.recorded(data_dir)),
    )
    part = target.with_name(f".{target.name}.part")
    try:
        with (
            disk_errors(target, "write the backup elsewhere"),
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".backup-") as place,
        ):
            snapshot = _snapshot(data_dir, database_url, Path(place) / DATABASE)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                count = _write(file, data_dir, snapshot, about, on_progress)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return Made(target, about, count, target.stat().st_size)


def _snapshot(data_dir: Path, database_url: str, copy: Path) -> Path:
    """Return a copy of the database as it is at one moment, while others write to it: an SQLite file, whatever it is."""
    if database_url:
        tables.export(Database(database_url), copy)
        return copy
    with closing(sqlite3.connect(data_dir / DATABASE)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _write(file: IO[bytes], data_dir: Path, snapshot: Path, about: About, on_progress: OnProgress) -> int:
    # The database first: blobs are never changed, so whatever it names is there when they are copied.
    files = {
        path.relative_to(data_dir).as_posix(): path
        for path in sorted(data_dir.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    kept = {name: path for name, path in files.items() if is_kept(PurePosixPath(name), about.with_runs)}
    signing = {name: kept.pop(name) for name in list(kept) if name.startswith("signing/")}
    total = snapshot.stat().st_size + sum(_size(path) for path in (*kept.values(), *signing.values()))
    url = "" if about.blobs_elsewhere else places.recorded(data_dir)
    with (
        places.looking_at(data_dir, url) if url else nullcontext() as stores,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        if stores is not None:
            kept.pop(places.RECORD, None)
            total += sum(blob.size_bytes for _, blobs in stores.named for blob in blobs.all())
        packing = _Packing(archive, total, on_progress)
        packing.add_bytes(ABOUT, about.model_dump_json(indent=1).encode(), 0o600)
        packing.add(DATABASE, snapshot)
        # Versions of metadata name each other: all of them, or none.
        with SigningService(data_dir / "signing").standing_still():
            for name, path in signing.items():
                packing.add(name, path)
        for name, path in kept.items():
            packing.add(name, path)
        for folder, blobs in stores.named if stores is not None else ():
            for blob in blobs.all():
                packing.add(f"{folder}/{key_of(blob.digest)}", blobs.path(blob.digest))
        packing.add_bytes(DIGESTS, Digests(sha256=packing.digests).model_dump_json().encode(), 0o600)
    return len(packing.digests) - len((ABOUT, DIGESTS))


class _Packing:
    """A tar file on its way; `digests` has what was added."""

    def __init__(self, archive: tarfile.TarFile, total: int, on_progress: OnProgress) -> None:
        self._archive, self._total, self._on_progress = archive, total, on_progress
        self._done = 0
        self.digests: dict[str, str] = {}

    def add(self, name: str, path: Path) -> None:
        """Add the file as it is now; one that went away meanwhile is nothing that the hub wants any more."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            known = os.fstat(file.fileno())
            if known.st_size <= _AT_ONCE_BYTES:
                self.add_bytes(name, file.read(), known.st_mode & 0o777)
                return
            self._add(name, file, known.st_size, known.st_mode & 0o777)

    def add_bytes(self, name: str, content: bytes, mode: int) -> None:
        self._add(name, io.BytesIO(content), len(content), mode)

    def _add(self, name: str, file: IO[bytes], size: int, mode: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, mode
        hashing = _Hashing(file, self._moved)
        self._archive.addfile(info, hashing)
        self.digests[name] = hashing.digest.hexdigest()

    def _moved(self, count: int) -> None:
        self._done += count
        self._on_progress(min(self._done, self._total), self._total)


class _Hashing(io.RawIOBase):
    """A file that knows the digest of what was read."""

    def __init__(self, file: IO[bytes], moved: Callable[[int], None]) -> None:
        self._file, self._moved = file, moved
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        self._moved(len(content))
        return content


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
