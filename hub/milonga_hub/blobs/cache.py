"""Files of blobs that lie elsewhere: as many as fit, verified, and what was used longest ago goes first."""

from __future__ import annotations

import errno
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from milonga_hub.blobs.interface import digest_at, digest_of_file, key_of
from milonga_hub.errors import OutOfRoom

# Whoever was given a path opens it, or takes a copy, within this time.
_IN_USE_SECONDS = 60.0


@dataclass
class _Entry:
    size_bytes: int
    used_at: float
    # Files of an earlier process may be what a power cut left: they are read before they are believed.
    is_proved: bool


class Cache:
    """A folder of blobs within a limit; only what is in use may exceed it. Safe to use from several threads, not processes."""

    def __init__(self, root: Path, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        # The one that was used last at the end.
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._total_bytes = 0
        root.mkdir(parents=True, exist_ok=True)
        self._take_stock()

    def find(self, digest: str) -> Path | None:
        """Return the blob's file, None where it is not here."""
        place = self._place(digest)
        with self._lock:
            entry = self._known.get(digest)
            if entry is None:
                return None
            self._known.move_to_end(digest)
            entry.used_at = self._clock()
        if entry.is_proved and place.exists():
            return place
        if place.exists() and digest_of_file(place) == digest:
            entry.is_proved = True
            return place
        self.forget(digest)
        return None

    def add(self, digest: str, fetch: Callable[[Path], None]) -> Path | None:
        """Return the blob's file, written by `fetch`; None, and nothing is kept, where that wrote something else."""
        place = self._place(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".part-", delete=False) as file:
            part = Path(file.name)
        try:
            fetch(part)
            if digest_of_file(part) != digest:
                return None
            size_bytes = part.stat().st_size
            part.replace(place)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OutOfRoom(f"the hub's disk is full; free space under {self._root}") from error
            raise
        finally:
            part.unlink(missing_ok=True)
        with self._lock:
            self._drop(digest)
            self._known[digest] = _Entry(size_bytes, self._clock(), is_proved=True)
            self._total_bytes += size_bytes
            self._evict()
        return place

    def forget(self, digest: str) -> None:
        """Remove the blob's file, if there is one."""
        with self._lock:
            self._drop(digest)
        self._place(digest).unlink(missing_ok=True)

    def _drop(self, digest: str) -> None:
        entry = self._known.pop(digest, None)
        self._total_bytes -= entry.size_bytes if entry else 0

    def _evict(self) -> None:
        now = self._clock()
        while self._known and self._total_bytes > self._max_bytes:
            digest, entry = next(iter(self._known.items()))
            if now - entry.used_at < _IN_USE_SECONDS:
                return
            self._drop(digest)
            # Whoever reads it now goes on reading the open file.
            self._place(digest).unlink(missing_ok=True)

    def _take_stock(self) -> None:
        found = []
        for place in self._root.glob("??/*"):
            digest = digest_at(f"{place.parent.name}/{place.name}")
            if digest is None:
                place.unlink(missing_ok=True)
            else:
                known = place.stat()
                found.append((known.st_mtime, digest, known.st_size))
        long_ago = self._clock() - _IN_USE_SECONDS
        for _, digest, size_bytes in sorted(found):
            self._known[digest] = _Entry(size_bytes, long_ago, is_proved=False)
            self._total_bytes += size_bytes
        self._evict()

    def _place(self, digest: str) -> Path:
        return self._root / key_of(digest)
