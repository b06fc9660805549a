"""The digests of a blob's chunks, by which devices verify what arrives while it does."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from milonga_hub.errors import MilongaError

# What is fetched again where something is damaged. 32 bytes of digest for each are 0.003 % more to send.
CHUNK_BYTES = 1 << 20
# About 100 bytes a chunk: as many blobs of 100 MB are 3 MB.
_KNOWN_BLOBS = 256


@dataclass(frozen=True)
class Chunks:
    size_bytes: int
    chunk_bytes: int
    digests: tuple[bytes, ...]


class ChunkIndex:
    """Knows the chunks of the blobs that were asked for last. Blobs never change."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, asyncio.Future[Chunks]] = OrderedDict()

    async def of(self, digest: str, find: Callable[[], Path]) -> Chunks:
        """Return the chunks of the blob that `find` returns; a fleet that asks at once has it read once."""
        future = self._known.get(digest)
        if future is None:
            future = self._known[digest] = asyncio.ensure_future(asyncio.to_thread(lambda: chunks_of(find())))
            while len(self._known) > _KNOWN_BLOBS:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        try:
            return await asyncio.shield(future)
        except (OSError, MilongaError):
            self._known.pop(digest, None)
            raise


def chunks_of(path: Path) -> Chunks:
    """Read the file and return its chunks."""
    digests = []
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digests.append(hashlib.sha256(chunk).digest())
        return Chunks(file.tell(), CHUNK_BYTES, tuple(digests))
