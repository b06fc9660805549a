"""Take from neighbours what they have of a blob, each chunk verified before it is kept; the hub sends the rest."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from milonga_agent.downloads import Chunks, Neighbour
from milonga_agent.errors import NeighbourFailed

_log = logging.getLogger(__name__)

# One that is away or lies is not asked again for so long.
_AVOID_SECONDS = 600.0


class Neighbourhood:
    """Knows which neighbours were of no use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Until when, by what tells each from all others.
        self._avoided: dict[bytes, float] = {}

    async def bring(
        self,
        digest: str,
        chunks: Chunks,
        neighbours: tuple[Neighbour, ...],
        part: Path,
        sent: Counter[str],
        tell: Callable[[int], None],
    ) -> None:
        """Let the part grow by whole chunks as far as neighbours have them; count in `sent` by whom. Raises OSError."""
        willing = [each for each in neighbours if self._avoided.get(each.certificate_sha256, 0.0) <= self._clock()]
        if not willing:
            return
        with part.open("r+b" if part.exists() else "w+b") as file:
            position = file.seek(0, os.SEEK_END)
            for neighbour in willing:
                position = await self._take(digest, chunks, neighbour, file, position, sent, tell)
                if position >= chunks.size_bytes:
                    break

    async def _take(
        self,
        digest: str,
        chunks: Chunks,
        neighbour: Neighbour,
        file: IO[bytes],
        position: int,
        sent: Counter[str],
        tell: Callable[[int], None],
    ) -> int:
        """Return how far the part goes after this neighbour."""
        # The chunk that was begun before comes whole, since no part of one can be verified.
        index = position // chunks.chunk_bytes
        pieces = neighbour.fetch(digest, index * chunks.chunk_bytes)
        try:
            async for content in _in_chunks(pieces, chunks, index):
                if hashlib.sha256(content).digest() != chunks.digests[index]:
                    raise NeighbourFailed("what it sends is not the file")
                offset, length = chunks.span(index)
                file.seek(offset)
                await asyncio.to_thread(file.write, content)
                sent[neighbour.device] += offset + length - position
                position, index = offset + length, index + 1
                tell(position)
        except NeighbourFailed as error:
            if error.lasts:
                self._avoided[neighbour.certificate_sha256] = self._clock() + _AVOID_SECONDS
            _log.warning("%s is of no use as a cache for %s...: %s", neighbour.device, digest[:19], error)
        return position


async def _in_chunks(pieces: AsyncIterator[bytes], chunks: Chunks, index: int) -> AsyncIterator[bytes]:
    """Yield the chunks from an index on; what comes beyond the last is left."""
    content = bytearray()
    async for piece in pieces:
        content += piece
        while index < len(chunks.digests):
            _, length = chunks.span(index)
            if len(content) < length:
                break
            yield bytes(content[:length])
            del content[:length]
            index += 1
        if index == len(chunks.digests):
            return
