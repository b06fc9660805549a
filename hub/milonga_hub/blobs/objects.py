"""Blobs in an object store, or whatever else fsspec reaches by a URL."""

from __future__ import annotations

import errno
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from milonga_hub.blobs.ahead import Ahead
from milonga_hub.blobs.cache import Cache
from milonga_hub.blobs.interface import Blobs, Kept, Sink, digest_at, digest_of, digest_of_file, key_of
from milonga_hub.errors import BlobDamaged, BlobsUnreachable, NotFound, OutOfRoom

_Answer = TypeVar("_Answer")

# Stores where a name shows its content whole or not at all: no other name is needed meanwhile.
_WHOLE_AT_ONCE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"})
# Sending a smaller blob again costs no more than asking whether it is there.
_ASKED_FIRST_BYTES = 1 << 20
# What passes by itself, such as a connection that was cut, passes within these.
_PAUSES_SECONDS = (0.2, 1.0)
_LOCKS = 64
# A list tells a thousand sizes at a time.
_ASKED_ONE_BY_ONE = 50
# Says that the prefix is a hub's, and that the store answers; nothing that a digest names.
_MARKER, _MARK = "milonga.txt", b"Blobs of a Milonga hub, named by the SHA-256 of what they contain.\n"
# How stores tell when they took an object.
_TIMES = ("LastModified", "last_modified", "updated", "created", "mtime")


class ObjectBlobs(Blobs):
    """Blobs under a prefix of a store, named as on disk; those that are needed as files are cached on disk.

    Raises BlobsUnreachable where the store does not answer or refuses, BlobDamaged where it returns something else.
    """

    def __init__(
        self, store: Any, prefix: str, where: str, cache: Cache, pauses_seconds: Sequence[float] = _PAUSES_SECONDS
    ) -> None:
        """`store` is a file system of fsspec, which must not remember listings."""
        self._store = store
        self._prefix = prefix.rstrip("/")
        self.where = where
        self._marker = f"{self._prefix}/{_MARKER}"
        self._cache = cache
        self._pauses_seconds = pauses_seconds
        protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
        self._is_whole_at_once = bool(_WHOLE_AT_ONCE.intersection(protocols))
        # So that a blob which many want is fetched once.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def path(self, digest: str) -> Path:
        key = self._key(digest)
        with self._locks[int(digest[-2:], 16) % _LOCKS]:
            found = self._cache.find(digest)
            if found is not None:
                return found
            # Twice: what was damaged on the way arrives whole then.
            for _ in range(2):
                found = self._cache.add(digest, lambda part: self._reading(digest, lambda: self._fetch(key, part)))
                if found is not None:
                    return found
        raise BlobDamaged(
            f"{self.where} returns something else for {digest}; bring it back from an earlier version there, or from a backup"
        )

    def exists(self, digest: str) -> bool:
        return self._info(digest) is not None

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        if len(data) < _ASKED_FIRST_BYTES or not self.exists(digest):
            self._send(self._key(digest), lambda key: self._store.pipe_file(key, data))
        return digest

    @contextmanager
    def ahead(self) -> Iterator[Sink]:
        with Ahead.threads() as threads:
            sink = Ahead(self, threads)
            yield sink
            sink.finish()

    def put_file(self, path: Path) -> str:
        digest = digest_of_file(path)
        if path.stat().st_size < _ASKED_FIRST_BYTES or not self.exists(digest):
            self._send(self._key(digest), lambda key: self._store.put_file(str(path), key))
        return digest

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def size(self, digest: str) -> int:
        cached = self._cache.find(digest)
        if cached is not None:
            return cached.stat().st_size
        info = self._info(digest)
        if info is None:
            raise NotFound(f"no blob {digest}")
        return int(info["size"])

    def sizes(self, digests: Collection[str]) -> int:
        if len(digests) <= _ASKED_ONE_BY_ONE:
            return super().sizes(digests)
        return sum(blob.size_bytes for blob in self.all() if blob.digest in digests)

    def read_range(self, digest: str, offset: int, size: int) -> bytes:
        key = self._key(digest)
        cached = self._cache.find(digest)
        if cached is not None:
            with cached.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        if size <= 0:
            return b""
        return bytes(self._reading(digest, lambda: self._store.cat_file(key, start=offset, end=offset + size)))

    def all(self) -> Iterator[Kept]:
        # Folder by folder: a fleet's pictures are too many to be held at once.
        folders = (info["name"].rstrip("/") for info in self._tried(lambda: self._list(self._store.ls, self._prefix)))
        for folder in sorted(one for one in folders if len(one.rpartition("/")[2]) == 2):
            found = {info["name"]: info for info in self._tried(partial(self._list, self._store.ls, folder))}
            for key in sorted(found):
                digest = digest_at("/".join(key.rsplit("/", 2)[-2:]))
                if digest is not None:
                    yield Kept(digest, int(found[key]["size"]), _time_of(found[key]))

    def delete(self, digest: str) -> None:
        key = self._key(digest)
        with suppress(FileNotFoundError):
            self._tried(lambda: self._store.rm_file(key))
        self._cache.forget(digest)

    def tidy(self, before: datetime) -> None:
        for info in self._tried(lambda: self._list(self._store.ls, f"{self._prefix}/.part")):
            if _time_of(info) < before:
                self._tried(partial(self._store.rm_file, info["name"]))

    def prepare(self) -> None:
        self._send(self._marker, lambda key: self._store.pipe_file(key, _MARK))

    def check(self) -> None:
        try:
            self._tried(lambda: self._store.info(self._marker), pauses_seconds=())
        except FileNotFoundError as error:
            raise BlobsUnreachable(f"there is no {self._marker} in {self.where}: blobs of no hub are there") from error

    def _key(self, digest: str) -> str:
        return f"{self._prefix}/{key_of(digest)}"

    def _info(self, digest: str) -> Mapping[str, Any] | None:
        key = self._key(digest)
        try:
            # Not `exists`, which takes a store that does not answer for an empty one.
            info: Mapping[str, Any] = self._tried(lambda: self._store.info(key))
        except FileNotFoundError:
            return None
        return info

    def _fetch(self, key: str, part: Path) -> None:
        self._store.get_file(key, str(part))

    @staticmethod
    def _list(ls: Callable[..., Any], folder: str) -> Any:
        try:
            return ls(folder, detail=True)
        except FileNotFoundError:
            return []

    def _send(self, key: str, send: Callable[[str], object]) -> None:
        """Let the content appear under its name whole or not at all, also where this process ends at any line."""
        try:
            if self._is_whole_at_once:
                self._tried(lambda: send(key))
                return
            part = f"{self._prefix}/.part/{uuid.uuid4().hex}"
            self._tried(lambda: self._send_in_two_steps(send, part, key))
        except FileNotFoundError as error:
            raise BlobsUnreachable(f"there is no {self.where}; make the bucket or folder first") from error

    def _send_in_two_steps(self, send: Callable[[str], object], part: str, key: str) -> None:
        for place in (part, key):
            self._store.makedirs(place.rpartition("/")[0], exist_ok=True)
        send(part)
        self._store.mv(part, key)

    def _reading(self, digest: str, action: Callable[[], _Answer]) -> _Answer:
        try:
            return self._tried(action)
        except FileNotFoundError as error:
            raise NotFound(f"no blob {digest}") from error

    def _tried(self, action: Callable[[], _Answer], pauses_seconds: Sequence[float] | None = None) -> _Answer:
        """Return what the store answers; all that is asked of it may be asked again. Raises FileNotFoundError, BlobsUnreachable."""
        pauses = list(self._pauses_seconds if pauses_seconds is None else pauses_seconds)
        while True:
            try:
                return action()
            except (FileNotFoundError, NotImplementedError, TypeError):
                raise
            except PermissionError as error:
                raise BlobsUnreachable(f"{self.where} refuses this hub: {error}; look at its credentials") from error
            except Exception as error:  # Each store's library has kinds of its own.
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise OutOfRoom(f"the hub's disk is full, or {self.where} is; make room there") from error
                if not pauses:
                    raise BlobsUnreachable(
                        f"{self.where} does not answer ({type(error).__name__}: {error}); look at the address, the network and"
                        " the store, and try again"
                    ) from error
                time.sleep(pauses.pop(0))


def _time_of(info: Mapping[str, Any]) -> datetime:
    told = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    if isinstance(told, datetime):
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    # Of a store that does not tell, everything is new: nothing is taken for old that may not be.
    return datetime.now(UTC) if told is None else datetime.fromtimestamp(float(told), UTC)
