"""Fetch a blob from a neighbour, over TLS on which both sides are known. Whether it is the blob is for the caller to verify."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from milonga.throttling import Throttle
from milonga.waiting import within

from milonga_agent.errors import NeighbourFailed
from milonga_agent.keys import KEY
from milonga_agent.state import Store

# Neighbours answer within milliseconds, or are not there.
_DIAL_SECONDS = 2.0
# It may wait itself for what it is fetching.
_SILENT_SECONDS = 5.0
# Slower than this the hub is asked, however slow its line is.
_SLOWEST_BYTES_PER_SECOND = 32_000
_GRACE_SECONDS = 5.0
_PIECE_BYTES = 256 << 10


# It is there, and may be of use another time.
_WHY = {
    403: "it does not take the ticket",
    404: "it does not have the file",
    503: "as many as it serves at a time are there already",
}


@dataclass(frozen=True)
class Neighbour:
    """A device on the same network that may have a blob, as the hub named it: see agent.proto."""

    device: str
    addresses: tuple[str, ...]
    certificate_sha256: bytes
    ticket: str = field(repr=False)
    # This device's own.
    store: Store = field(repr=False)
    throttle: Throttle = field(repr=False)

    async def fetch(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        """Yield the blob from an offset on, as far as the neighbour sends it. Raises NeighbourFailed."""
        try:
            reader, writer = await self._dial()
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise NeighbourFailed(f"it cannot be reached: {error or type(error).__name__}") from error
        try:
            writer.write(self._question(digest, offset))
            status = _status(await within(reader.readuntil(b"\r\n\r\n"), _SILENT_SECONDS))
            if status != 206:
                raise NeighbourFailed(_WHY.get(status, f"it answers {status}"), lasts=status not in _WHY)
            async for piece in _pieces(reader):
                await self.throttle.take(len(piece))
                yield piece
        except asyncio.TimeoutError as error:
            raise NeighbourFailed(f"it is silent for {_SILENT_SECONDS:.0f} s") from error
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise NeighbourFailed(f"the line to it broke: {error}") from error
        finally:
            writer.close()

    def _question(self, digest: str, offset: int) -> bytes:
        head = (
            f"GET /blobs/{digest} HTTP/1.1",
            f"Host: {self.device}",
            f"Range: bytes={offset}-",
            f"Authorization: Ticket {self.ticket}",
            "Connection: close",
        )
        return "\r\n".join((*head, "", "")).encode("ascii")

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = _context(self.store)
        problem = OSError("it has no address")
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            opening = asyncio.open_connection(
                host.strip("[]"), int(port), ssl=context, server_hostname=self.device, limit=_PIECE_BYTES
            )
            try:
                reader, writer = await within(opening, _DIAL_SECONDS)
            except (OSError, asyncio.TimeoutError) as error:
                problem = OSError(f"{address}: {error or 'nobody answers'}")
                continue
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
            if hmac.compare_digest(hashlib.sha256(shown).digest(), self.certificate_sha256):
                return reader, writer
            writer.close()
            problem = OSError(f"another machine answers at {address}")
        raise problem


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield what comes, unless it comes too slowly. What the caller does meanwhile does not count."""
    loop = asyncio.get_running_loop()
    waited, came = 0.0, 0
    while True:
        began = loop.time()
        piece = await within(reader.read(_PIECE_BYTES), _SILENT_SECONDS)
        waited, came = waited + loop.time() - began, came + len(piece)
        if not piece:
            return
        if came < _SLOWEST_BYTES_PER_SECOND * (waited - _GRACE_SECONDS):
            raise NeighbourFailed(f"it sends only {came / waited / 1000:.0f} kB/s", lasts=False)
        yield piece


def _context(store: Store) -> ssl.SSLContext:
    """Return what shows this device's certificate. The other side's is compared with the one that the hub named."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(str(store.certificate_path), str(store.folder / KEY))
    return context


def _status(head: bytes) -> int:
    words = head.split(b" ", 2)
    if len(words) < 3 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("it does not speak HTTP")
    return int(words[1])
