"""Bring a blob to this device: from where it stopped, each chunk verified by itself, as a delta where that is less."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from milonga_agent.errors import AgentError, HubUnreachable
from milonga_agent.files import disk_errors, sync_folder

# A chunk that arrives damaged so often is damaged on the hub.
_TRIES = 3
# Held in memory where it is fetched again.
_MAX_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Chunks:
    """The SHA-256 of every chunk of a blob; the last chunk may be shorter."""

    size_bytes: int
    chunk_bytes: int
    digests: tuple[bytes, ...]

    @property
    def is_sound(self) -> bool:
        """Return whether this describes a blob at all."""
        return 0 < self.chunk_bytes <= _MAX_CHUNK_BYTES and len(self.digests) == -(-self.size_bytes // self.chunk_bytes)

    def span(self, index: int) -> tuple[int, int]:
        """Return offset and length of a chunk."""
        offset = index * self.chunk_bytes
        return offset, min(self.chunk_bytes, self.size_bytes - offset)


@dataclass(frozen=True)
class DeltaOffer:
    """A delta that makes the wanted blob out of the blob `base`."""

    digest: str
    base: str
    chunks: Chunks


class Neighbour(Protocol):
    """A device on the same network that may have the blob, and that this device may ask for it (nearby.py)."""

    @property
    def device(self) -> str: ...

    @property
    def certificate_sha256(self) -> bytes:
        """What tells it from all others."""

    def fetch(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        """Yield the blob from an offset on, as far as the neighbour sends it. Raises NeighbourFailed."""


@dataclass(frozen=True)
class Offer:
    """How a blob can be had. Hubs from before deltas offer none of it."""

    chunks: Chunks | None = None
    delta: DeltaOffer | None = None
    neighbours: tuple[Neighbour, ...] = ()


class Line(Protocol):
    """How blobs come here (hub.Courier)."""

    def fetch(self, digest: str, offset: int, length: int = 0) -> AsyncIterator[bytes]:
        """Yield so many bytes of a blob from an offset on, 0 for all. Raises HubUnreachable or Refused."""

    async def offer(self, digest: str, held: Sequence[str]) -> Offer:
        """Return how the blob can be had by who holds these bundles."""


@dataclass
class Download:
    """One blob on its way into a file, `part`. What lies there from before is verified and used."""

    digest: str
    size_bytes: int
    part: Path
    line: Line
    chunks: Chunks | None
    # Hears how many bytes came, and how many are there.
    moved: Callable[[int], None]
    tell: Callable[[int], None]
    # So much of the part was verified before.
    verified_bytes: int = 0
    _damaged: list[int] = field(default_factory=list)

    async def run(self, place: Path) -> None:
        """Bring the whole blob to `place`. Raises HubUnreachable, Refused, DiskFull, or AgentError for lasting damage."""
        try:
            with disk_errors(self.part):
                if self.part.exists() and self.part.stat().st_size > self.size_bytes:
                    self.part.unlink()
                with self.part.open("r+b" if self.part.exists() else "w+b") as file:
                    await asyncio.to_thread(self._verify, file)
                    await self._append(file)
                    while self._damaged:
                        await self._mend(file, self._damaged[0])
                        self._damaged.pop(0)
                    file.flush()
                    os.fsync(file.fileno())
        finally:
            if self._damaged and self.chunks is not None:
                self.verified_bytes = min(self.verified_bytes, self.chunks.span(min(self._damaged))[0])
        self.part.replace(place)
        sync_folder(place.parent)

    def _verify(self, file: IO[bytes]) -> None:
        """Note which chunks that were written by an earlier process are damaged: a power cut may leave zeros."""
        if self.chunks is None:
            return
        size = file.seek(0, os.SEEK_END)
        for index in range(self.verified_bytes // self.chunks.chunk_bytes, len(self.chunks.digests)):
            offset, length = self.chunks.span(index)
            if offset + length > size:
                return
            file.seek(offset)
            if hashlib.sha256(file.read(length)).digest() != self.chunks.digests[index]:
                self._damaged.append(index)
            self.verified_bytes = offset + length

    async def _append(self, file: IO[bytes]) -> None:
        """Fetch what is missing at the end. A line that breaks is dialled again at once as long as something comes.

        Once also where nothing came: a break may take a large piece with it that had arrived, and the next are small.
        """
        position, empty = file.seek(0, os.SEEK_END), 0
        while position < self.size_bytes:
            before = position
            try:
                position = await self._stream(file, position)
            except HubUnreachable:
                position = file.seek(0, os.SEEK_END)
                empty = empty + 1 if position == before else 0
                if empty > 1:
                    raise
            else:
                if position == before:
                    raise HubUnreachable(f"the hub ends {self.digest[:19]}... after {position} bytes")

    async def _stream(self, file: IO[bytes], position: int) -> int:
        watch = _Watch(self.chunks, file, position) if self.chunks else None
        file.seek(position)
        async for piece in self.line.fetch(self.digest, position):
            if position + len(piece) > self.size_bytes:
                raise AgentError(f"the hub sends more than {self.size_bytes} bytes of {self.digest[:19]}...")
            file.write(piece)
            position += len(piece)
            self.moved(len(piece))
            if watch is not None:
                self._damaged += watch.see(piece)
                self.verified_bytes = position
            self.tell(position)
        return position

    async def _mend(self, file: IO[bytes], index: int) -> None:
        """Fetch one chunk again."""
        assert self.chunks is not None
        offset, length = self.chunks.span(index)
        for _ in range(_TRIES):
            content = bytearray()
            async for piece in self.line.fetch(self.digest, offset, length):
                content += piece
                self.moved(len(piece))
            if hashlib.sha256(content).digest() == self.chunks.digests[index]:
                file.seek(offset)
                file.write(content)
                return
        raise AgentError(
            f"bytes {offset} to {offset + length} of {self.digest[:19]}... arrived damaged {_TRIES} times; look at the"
            " hub's disk, or make the build again"
        )


class _Watch:
    """Sees a stream go by and says which chunks of it are damaged."""

    def __init__(self, chunks: Chunks, file: IO[bytes], position: int) -> None:
        self._chunks = chunks
        self._index = position // chunks.chunk_bytes
        # The chunk that was begun before goes on.
        file.seek(self._index * chunks.chunk_bytes)
        begun = file.read(position - self._index * chunks.chunk_bytes)
        self._digest, self._seen = hashlib.sha256(begun), len(begun)

    def see(self, piece: bytes) -> list[int]:
        damaged = []
        left = memoryview(piece)
        while left:
            _, length = self._chunks.span(self._index)
            now = left[: length - self._seen]
            self._digest.update(now)
            self._seen += len(now)
            left = left[len(now) :]
            if self._seen == length:
                if self._digest.digest() != self._chunks.digests[self._index]:
                    damaged.append(self._index)
                self._index += 1
                self._digest, self._seen = hashlib.sha256(), 0
        return damaged
