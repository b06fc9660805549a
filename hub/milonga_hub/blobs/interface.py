"""What every store of blobs does, and the digests that name them."""

from __future__ import annotations

import hashlib
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from milonga_hub.errors import InvalidInput, NotFound

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def key_of(digest: str) -> str:
    """Return under which name stores keep the blob, "ab/cd...". Raises InvalidInput for a malformed digest."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"{digest!r} is not a digest; it must be sha256: and 64 hexadecimal digits")
    name = digest.removeprefix("sha256:")
    return f"{name[:2]}/{name[2:]}"


def digest_at(key: str) -> str | None:
    """Return the digest of the blob under this name; None for anything else that lies in a store."""
    digest = f"sha256:{key.replace('/', '', 1)}"
    return digest if key[2:3] == "/" and _DIGEST.fullmatch(digest) else None


@dataclass(frozen=True)
class Kept:
    """A blob that a store has."""

    digest: str
    size_bytes: int
    kept_at: datetime


class Sink(Protocol):
    """What takes blobs."""

    def put(self, data: bytes) -> str:
        """Take the bytes and return their digest."""


class Blobs(ABC):
    """A store of blobs. All of it may be called from any thread; what lies elsewhere may take its time."""

    #: Where it is, for people; never with a secret.
    where: str

    @abstractmethod
    def path(self, digest: str) -> Path:
        """Return a file with the blob, to be read at once: what is needed for long is taken by `copy_to`.

        Raises NotFound where there is none, InvalidInput for a malformed digest; so do all that take one.
        """

    @abstractmethod
    def exists(self, digest: str) -> bool: ...

    @abstractmethod
    def put(self, data: bytes) -> str:
        """Keep the bytes and return their digest; they are safe when this returns."""

    @contextmanager
    def ahead(self) -> Iterator[Sink]:
        """Give what takes many small blobs; all of them are safe when the block ends."""
        yield self

    @abstractmethod
    def put_file(self, path: Path) -> str:
        """Keep a copy of the file and return its digest."""

    @abstractmethod
    def read(self, digest: str) -> bytes: ...

    @abstractmethod
    def size(self, digest: str) -> int: ...

    def sizes(self, digests: Collection[str]) -> int:
        """Return what these blobs take together; one that is not there takes nothing."""
        total = 0
        for digest in digests:
            with suppress(NotFound):
                total += self.size(digest)
        return total

    @abstractmethod
    def read_range(self, digest: str, offset: int, size: int) -> bytes:
        """Return so many bytes from an offset on, or what is left; nothing else of the blob need be fetched."""

    @abstractmethod
    def all(self) -> Iterator[Kept]:
        """Yield what is there, in the order of digests."""

    @abstractmethod
    def delete(self, digest: str) -> None:
        """Forget the blob, if it is there."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready what blobs are kept in. Raises BlobsUnreachable where that cannot be."""

    @abstractmethod
    def check(self) -> None:
        """Raise BlobsUnreachable, within seconds, where the store does not answer."""

    @abstractmethod
    def tidy(self, before: datetime) -> None:
        """Remove what is left of blobs whose keeping was cut off before then."""

    def older_than(self, moment: datetime) -> Iterator[str]:
        """Yield the digests of the blobs that were kept before then."""
        return (blob.digest for blob in self.all() if blob.kept_at < moment)

    def copy_to(self, digest: str, target: Path) -> None:
        """Put the blob at a path of the caller's: by a second name where the file system can give one, else as a copy."""
        found = self.path(digest)
        # What is there may be a second name of another blob, which must not be written over.
        target.unlink(missing_ok=True)
        with suppress(OSError):
            target.hardlink_to(found)
            return
        shutil.copyfile(found, target)
