"""Blobs in a folder: on the hub's own disk, or on one that several machines mount."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from milonga_hub.blobs.interface import Blobs, Kept, digest_at, digest_of, digest_of_file, key_of
from milonga_hub.errors import BlobsUnreachable, NotFound, OutOfRoom

_CHUNK_BYTES = 1 << 20


class BlobStore(Blobs):
    """Blobs in a folder, two levels deep by digest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)
        root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        path = self._place(digest)
        if not path.exists():
            raise NotFound(f"no blob {digest}")
        return path

    def exists(self, digest: str) -> bool:
        return self._place(digest).exists()

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        place = self._place(digest)
        if not place.exists():
            self._write(place, data)
        return digest

    def put_file(self, path: Path) -> str:
        digest = digest_of_file(path)
        place = self._place(digest)
        if not place.exists():
            self._write(place, path)
        return digest

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def read_range(self, digest: str, offset: int, size: int) -> bytes:
        with self.path(digest).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def all(self) -> Iterator[Kept]:
        for folder in sorted(self.root.glob("??")):
            for place in sorted(folder.iterdir()):
                digest = digest_at(f"{folder.name}/{place.name}")
                if digest is not None:
                    known = place.stat()
                    yield Kept(digest, known.st_size, datetime.fromtimestamp(known.st_mtime, UTC))

    def delete(self, digest: str) -> None:
        self._place(digest).unlink(missing_ok=True)

    def tidy(self, before: datetime) -> None:
        for part in self.root.glob("??/.part-*"):
            if part.stat().st_mtime < before.timestamp():
                part.unlink(missing_ok=True)

    def prepare(self) -> None:
        self.check()

    def check(self) -> None:
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise BlobsUnreachable(f"the hub cannot read and write {self.root}; mend its rights, or mount it again")

    def _place(self, digest: str) -> Path:
        return self.root / key_of(digest)

    def _write(self, place: Path, source: bytes | Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=".part-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    with source.open("rb") as content:
                        while chunk := content.read(_CHUNK_BYTES):
                            file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(place)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise OutOfRoom(f"the hub's disk is full; free space under {self.root}") from error
            raise
