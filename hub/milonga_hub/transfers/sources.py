"""What is sent to devices, read piece by piece."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, Self

from milonga_hub.blobs import Blobs


class Source(Protocol):
    """Something of a known size, to be read while the block lasts."""

    size_bytes: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def read(self, offset: int, size: int) -> bytes: ...


class FileSource:
    """A file, open until the end whatever becomes of its name."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)


class BlobSource:
    """A blob; of one that lies elsewhere no more is read than what is sent."""

    def __init__(self, blobs: Blobs, digest: str) -> None:
        self._blobs, self._digest = blobs, digest
        self.size_bytes = blobs.size(digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def read(self, offset: int, size: int) -> bytes:
        return self._blobs.read_range(self._digest, offset, size)
