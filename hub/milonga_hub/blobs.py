"""Files addressed by what they contain: kept once, never changed, never half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from milonga_hub.errors import InvalidInput, NotFound, ResourceExhausted

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


class BlobStore:
    """Blobs in a folder, two levels deep by digest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Return where the blob lies. Raises NotFound where it does not, InvalidInput for a malformed digest."""
        path = self._place(digest)
        if not path.exists():
            raise NotFound(f"no blob {digest}")
        return path

    def exists(self, digest: str) -> bool:
        return self._place(digest).exists()

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their digest."""
        digest = digest_of(data)
        place = self._place(digest)
        if not place.exists():
            self._write(place, data)
        return digest

    def put_file(self, path: Path) -> str:
        """Keep a copy of the file and return its digest."""
        digest = digest_of_file(path)
        place = self._place(digest)
        if not place.exists():
            self._write(place, path)
        return digest

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def older_than(self, moment: datetime) -> Iterator[str]:
        """Yield the digests of the blobs that were kept before then."""
        for place in self.root.glob("??/*"):
            if not place.name.startswith(".") and place.stat().st_mtime < moment.timestamp():
                yield f"sha256:{place.parent.name}{place.name}"

    def delete(self, digest: str) -> None:
        """Forget the blob, if it is there."""
        self._place(digest).unlink(missing_ok=True)

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput(f"{digest!r} is not a digest; it must be sha256: and 64 hexadecimal digits")
        name = digest.removeprefix("sha256:")
        return self.root / name[:2] / name[2:]

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
                raise ResourceExhausted(f"the hub's disk is full; free space under {self.root}") from error
            raise
