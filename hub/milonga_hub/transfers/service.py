"""How files come to devices: in verified chunks, within limits on bandwidth, as deltas where that is less."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from milonga.deltas import FORMAT
from milonga.throttling import SMALLEST_PIECE_BYTES, Throttle

from milonga_hub.blobs import Blobs
from milonga_hub.errors import InvalidInput
from milonga_hub.settings import Settings
from milonga_hub.transfers import rules
from milonga_hub.transfers.chunks import ChunkIndex, Chunks
from milonga_hub.transfers.deltas import Delta, Deltas
from milonga_hub.transfers.sources import BlobSource, FileSource, Source

__all__ = ["Chunks", "Offer", "TransferService"]

# Pieces begin so large, and double up to what the device asks for: a line that breaks early loses little.
_PIECE_BYTES = 256 << 10
_MAX_PIECE_BYTES = 2 << 20
_AHEAD_BYTES = 2 << 20
# How long a device waits for a delta that is being made: it could have fetched 20 MB over a slow line meanwhile.
_DELTA_SECONDS = 20.0


@dataclass(frozen=True)
class Offer:
    """How a blob can be had: in chunks, and by a delta with chunks of its own."""

    chunks: Chunks
    delta: Delta | None = None
    delta_chunks: Chunks | None = None


class TransferService:
    """Everything between the blobs and the devices' lines. Who may have which blob is for others to say."""

    def __init__(self, blobs: Blobs, folder: Path, settings: Settings, delta_seconds: float = _DELTA_SECONDS) -> None:
        self._blobs = blobs
        self._delta_seconds = delta_seconds
        self._chunks = ChunkIndex()
        self._deltas = Deltas(blobs, folder, settings.delta_cache_bytes)
        self._all = Throttle(settings.max_download_kbps)
        self._device_kbps = settings.max_device_download_kbps
        self._each: dict[str, Throttle] = {}

    def wanted_by(self, digest: str) -> str:
        """Return the digest of what a delta makes; of anything else its own."""
        found = self._deltas.find(digest)
        return digest if found is None else found[0].target

    async def offer(self, wanted: rules.Listed, held: Sequence[str], formats: Sequence[int]) -> Offer:
        """Return how the file can be had by a device that holds these bundles, all of which it may know."""
        chunks = await self._chunks.of(wanted.digest, partial(self._blobs.path, wanted.digest))
        if FORMAT not in formats or not rules.may_pay(chunks.size_bytes):
            return Offer(chunks)
        files = [file for bundle in held for file in await asyncio.to_thread(self._listed, bundle)]
        bases = rules.bases(wanted, files)
        delta = await self._deltas.wanted(wanted.digest, bases, self._delta_seconds) if bases else None
        found = None if delta is None else self._deltas.find(delta.digest)
        if delta is None or found is None:
            return Offer(chunks)
        _, path = found
        return Offer(chunks, delta, await self._chunks.of(delta.digest, lambda: path))

    def _listed(self, bundle: str) -> list[rules.Listed]:
        """Return those files of a bundle that the hub still has."""
        if not self._blobs.exists(bundle):
            return []
        files = json.loads(self._blobs.read(bundle))["files"]
        listed = [rules.Listed(file["path"], file["digest"], file["size_bytes"]) for file in files]
        return [file for file in listed if self._blobs.exists(file.digest)]

    async def pieces(
        self, device: str, digest: str, offset: int, length: int = 0, piece_bytes: int = 0
    ) -> AsyncIterator[bytes]:
        """Yield so many bytes of a blob or a delta from an offset on (0: all), as fast as the limits let the device."""
        with await asyncio.to_thread(self._source, digest) as source:
            size_bytes = source.size_bytes
            if not 0 <= offset <= size_bytes:
                raise InvalidInput(f"offset_bytes must be 0 to {size_bytes}, the size of {digest}")
            if not 0 <= length <= size_bytes - offset:
                raise InvalidInput(
                    f"length_bytes must be 0 to {size_bytes - offset}, what {digest} has from the offset on"
                )
            own = self._throttle_of(device)
            size = min(
                piece_bytes or _PIECE_BYTES,
                self._all.piece_bytes or _MAX_PIECE_BYTES,
                own.piece_bytes or _MAX_PIECE_BYTES,
            )
            size = max(SMALLEST_PIECE_BYTES, min(_MAX_PIECE_BYTES, size))
            left, now = length or size_bytes - offset, min(size, _PIECE_BYTES)
            while left > 0:
                # Going to a thread and back costs as much as sending a piece. Where pieces are small the line is bad, and what the
                # device has not yet taken when it breaks is lost: the hub does not hurry there.
                wanted = now if size < _PIECE_BYTES else max(now, _AHEAD_BYTES)
                ahead = await asyncio.to_thread(source.read, offset, min(wanted, left))
                if not ahead:
                    return
                offset, left = offset + len(ahead), left - len(ahead)
                at = 0
                while at < len(ahead):
                    piece = ahead[at : at + now]
                    at, now = at + len(piece), min(size, 2 * now)
                    await own.take(len(piece))
                    await self._all.take(len(piece))
                    yield piece

    def _source(self, digest: str) -> Source:
        found = self._deltas.find(digest)
        return BlobSource(self._blobs, digest) if found is None else FileSource(found[1])

    def _throttle_of(self, device: str) -> Throttle:
        if not self._device_kbps:
            return _UNLIMITED
        return self._each.setdefault(device, Throttle(self._device_kbps))


_UNLIMITED = Throttle(0)
