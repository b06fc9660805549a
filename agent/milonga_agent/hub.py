"""Talk to the hub: enrol, keep one stream open, fetch blobs. The agent always dials out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from milonga.pinning import HUB_NAME
from milonga.status import METADATA_KEY
from milonga.throttling import SMALLEST_PIECE_BYTES, Throttle
from milonga.v1 import agent_pb2, agent_pb2_grpc

from milonga_agent.downloads import Chunks, DeltaOffer, Offer
from milonga_agent.errors import AgentError, HubUnreachable, Refused
from milonga_agent.nearby import Neighbour
from milonga_agent.patching import formats
from milonga_agent.state import Credentials, Identity, Store

# A line that is silent for so long is asked whether it still is one, and has a third of that to answer.
_KEEPALIVE_SECONDS = 30.0
_OPTIONS = [
    # Who only listens sends no data; by gRPC's default it asks twice whether the line still is one, and then a minute later.
    ("grpc.http2.max_pings_without_data", 0),
    # A fleet that lost its hub must find it again within seconds.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
_ENROL_SECONDS = 15.0
_CALL_SECONDS = 30.0
# The hub may make a delta meanwhile.
_OFFER_SECONDS = 60.0
# What a hub sends at once, on a good line. 2 MB cost this device 30 MB of memory, and the hub as much time.
_PIECE_BYTES = 512 << 10
# What was under way when a line broke is lost: so small a share of what it carried.
_LOST_SHARE = 1 / 256
# A few pictures over a slow line; what arrived by then is not sent again.
_UPLOAD_SECONDS = 600.0
# What no repetition changes.
_FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.INVALID_ARGUMENT,
}
# What gRPC makes of a line on which bits turned, and of a hub that stops; the hub itself never says so.
_BROKEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
# How gRPC begins to say that it opened no line, as where the hub refuses the certificate; a line that it opened has broken.
_NEVER_OPENED = ("failed to connect", "connections to all", "DNS resolution", "empty address list")

# What the hub says by itself, in words for people: why it ends a stream, or cannot do something now.
_SAID = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}


def _raise(error: Any, address: str) -> None:
    code, details = error.code(), str(error.details())
    if code in _FINAL:
        raise Refused(f"the hub refuses: {details}") from error
    is_unavailable = code is grpc.StatusCode.UNAVAILABLE
    if is_unavailable and METADATA_KEY in dict(error.trailing_metadata() or ()):
        # Something that the hub needs does not answer.
        raise HubUnreachable(f"the hub says: {details}") from error
    if code in _BROKEN or (is_unavailable and not details.startswith(_NEVER_OPENED)):
        raise HubUnreachable(f"the line to the hub at {address} broke: {details}") from error
    if is_unavailable or code is grpc.StatusCode.DEADLINE_EXCEEDED:
        raise HubUnreachable(
            f"no hub answers at {address}, or it does not take this device's certificate; check the address, and that"
            " `milonga up` runs"
        ) from error
    if code in _SAID:
        raise AgentError(f"the hub says: {details}") from error
    raise AgentError(f"the hub failed: {code.name}: {details}") from error


def _channel(address: str, credentials: grpc.ChannelCredentials, keepalive_seconds: float = _KEEPALIVE_SECONDS) -> Any:
    options = [
        *_OPTIONS,
        ("grpc.keepalive_time_ms", round(1000 * keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", round(1000 * keepalive_seconds / 3)),
        # gRPC's own pings, by which it finds out how much a line carries, are answered behind what is under way.
        ("grpc.http2.ping_timeout_ms", round(2000 * keepalive_seconds)),
        # Every hub's certificate bears this name; the authority, which is pinned, tells hubs apart.
        ("grpc.ssl_target_name_override", HUB_NAME),
    ]
    return grpc.aio.secure_channel(address, credentials, options=options)


class Enroller:
    """The hub as a machine without a certificate sees it. Use it inside an event loop and close it."""

    def __init__(self, address: str, authority: str) -> None:
        self.address = address
        self._channel = _channel(address, grpc.ssl_channel_credentials(authority.encode("ascii")))

    async def close(self) -> None:
        await self._channel.close()

    async def enrol(self, request: agent_pb2.EnrolRequest) -> agent_pb2.EnrolResponse:
        """Ask for a certificate. Raises Refused or HubUnreachable."""
        stub: Any = agent_pb2_grpc.EnrolmentServiceStub(self._channel)
        try:
            answer: agent_pb2.EnrolResponse = await stub.Enrol(request, timeout=_ENROL_SECONDS)
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)
            raise
        return answer

    async def time(self) -> float:
        """Return the hub's time in seconds since 1970. Raises Refused, HubUnreachable, or AgentError where it does not tell."""
        stub: Any = agent_pb2_grpc.EnrolmentServiceStub(self._channel)
        try:
            answer = await stub.GetTime(agent_pb2.GetTimeRequest(), timeout=_ENROL_SECONDS)
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)
            raise
        return float(answer.now.ToNanoseconds()) / 1e9


class Hub:
    """The hub as a device sees it. Use it inside an event loop and close it."""

    def __init__(
        self, identity: Identity, credentials: Credentials, keepalive_seconds: float = _KEEPALIVE_SECONDS
    ) -> None:
        self.address = f"{identity.hub.rpartition(':')[0]}:{identity.device_port}"
        self._channel = _channel(
            self.address,
            grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate),
            keepalive_seconds,
        )
        self._stub: Any = agent_pb2_grpc.AgentServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def connect(
        self, outgoing: asyncio.Queue[agent_pb2.ConnectRequest], handle: Callable[[agent_pb2.ConnectResponse], None]
    ) -> None:
        """Keep the stream open, sending what is queued and handling what comes. Returns only by raising."""
        call = self._stub.Connect()
        sending = asyncio.ensure_future(_send(call, outgoing))
        try:
            while True:
                message = await call.read()
                if message is grpc.aio.EOF:
                    break
                handle(message)
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)
        finally:
            sending.cancel()
            call.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        raise HubUnreachable(f"the hub at {self.address} closed the stream")

    async def fetch(self, digest: str, offset: int, length: int = 0, piece: int = 0) -> AsyncIterator[bytes]:
        """Yield so many bytes of a blob from an offset on, 0 for all. Raises Refused or HubUnreachable."""
        request = agent_pb2.FetchBlobRequest(digest=digest, offset_bytes=offset, length_bytes=length, piece_bytes=piece)
        try:
            async for part in self._stub.FetchBlob(request):
                yield part.chunk
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)

    async def offer(
        self, digest: str, held: Sequence[str], neighbour_of: Callable[[agent_pb2.Neighbour], Neighbour]
    ) -> Offer:
        """Return how the blob can be had by who holds these bundles. Raises Refused or HubUnreachable."""
        request = agent_pb2.OfferBlobRequest(digest=digest, held_bundles=held, delta_formats=formats() if held else ())
        try:
            answer = await self._stub.OfferBlob(request, timeout=_OFFER_SECONDS)
        except grpc.aio.AioRpcError as error:
            # A hub from before deltas does not know the call.
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return Offer()
            _raise(error, self.address)
            raise
        return _offer(answer, neighbour_of)

    async def metadata(self, name: str) -> bytes | None:
        """Return a file of signed metadata, or None where the hub has none. Raises Refused or HubUnreachable."""
        request = agent_pb2.FetchMetadataRequest(name=name)
        try:
            answer = await self._stub.FetchMetadata(request, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            # A hub from before it signed anything does not know the call.
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
                return None
            _raise(error, self.address)
            raise
        return bytes(answer.content)

    async def offer_samples(self, request: agent_pb2.OfferSamplesRequest) -> agent_pb2.OfferSamplesResponse:
        """Return which pictures the hub wants. Raises Refused or HubUnreachable."""
        try:
            answer: agent_pb2.OfferSamplesResponse = await self._stub.OfferSamples(request, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)
            raise
        return answer

    async def upload_samples(self, messages: AsyncIterator[agent_pb2.UploadSamplesRequest]) -> list[str]:
        """Send pictures and return the digests of those that are done with. Raises Refused or HubUnreachable."""
        try:
            answer = await self._stub.UploadSamples(messages, timeout=_UPLOAD_SECONDS)
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)
            raise
        return list(answer.done)


class Courier:
    """Fetches from the hub beside the stream, on connections of their own, with the identity and certificate of now.

    `max_kbps` is the most that downloads take of the line, 0 for all of it.
    """

    def __init__(self, store: Store, max_kbps: float = 0.0, keepalive_seconds: float = _KEEPALIVE_SECONDS) -> None:
        self._store = store
        self._throttle = Throttle(max_kbps)
        self._keepalive_seconds = keepalive_seconds
        self._piece_bytes = _PIECE_BYTES

    async def fetch(self, digest: str, offset: int, length: int = 0) -> AsyncIterator[bytes]:
        """Yield so many bytes of a blob from an offset on, 0 for all. Raises Refused or HubUnreachable."""
        hub = self._hub()
        carried = 0
        size = min(self._piece_bytes, self._throttle.piece_bytes or self._piece_bytes)
        try:
            async for piece in hub.fetch(digest, offset, length, size):
                carried += len(piece)
                await self._throttle.take(len(piece))
                yield piece
            self._piece_bytes = piece_bytes_after(self._piece_bytes, carried, broke=False)
        except HubUnreachable:
            self._piece_bytes = piece_bytes_after(self._piece_bytes, carried, broke=True)
            raise
        finally:
            await hub.close()

    async def offer(self, digest: str, held: Sequence[str]) -> Offer:
        """Return how the blob can be had by who holds these bundles. Raises Refused or HubUnreachable."""
        hub = self._hub()
        try:
            return await hub.offer(digest, held, self._neighbour)
        finally:
            await hub.close()

    async def metadata(self, name: str) -> bytes | None:
        """Return a file of signed metadata, or None where the hub has none. Raises Refused or HubUnreachable."""
        hub = self._hub()
        try:
            return await hub.metadata(name)
        finally:
            await hub.close()

    async def offer_samples(self, request: agent_pb2.OfferSamplesRequest) -> agent_pb2.OfferSamplesResponse:
        """Return which pictures the hub wants. Raises Refused or HubUnreachable."""
        hub = self._hub()
        try:
            return await hub.offer_samples(request)
        finally:
            await hub.close()

    async def upload_samples(self, messages: AsyncIterator[agent_pb2.UploadSamplesRequest]) -> list[str]:
        """Send pictures and return the digests of those that are done with. Raises Refused or HubUnreachable."""
        hub = self._hub()
        try:
            return await hub.upload_samples(messages)
        finally:
            await hub.close()

    def _neighbour(self, told: agent_pb2.Neighbour) -> Neighbour:
        return Neighbour(
            told.device, tuple(told.addresses), told.certificate_sha256, told.ticket, self._store, self._throttle
        )

    def _hub(self) -> Hub:
        identity = self._store.identity()
        if identity is None:
            raise Refused("this device has joined no hub")
        return Hub(identity, self._store.credentials(), self._keepalive_seconds)


def piece_bytes_after(now: int, carried_bytes: int, broke: bool) -> int:
    """Return how large the pieces of the next connection should be, after one that carried so much."""
    if broke:
        return max(SMALLEST_PIECE_BYTES, min(now, int(carried_bytes * _LOST_SHARE)))
    # It held: trust the line a little more.
    return min(_PIECE_BYTES, 2 * now) if carried_bytes > now / _LOST_SHARE else now


def _offer(answer: agent_pb2.OfferBlobResponse, neighbour_of: Callable[[agent_pb2.Neighbour], Neighbour]) -> Offer:
    delta = answer.delta
    return Offer(
        _chunks(answer.chunks),
        DeltaOffer(delta.digest, delta.base, _chunks(delta.chunks)) if answer.HasField("delta") else None,
        tuple(map(neighbour_of, answer.neighbours)),
    )


def _chunks(told: agent_pb2.Chunks) -> Chunks:
    return Chunks(told.size_bytes, told.chunk_bytes, tuple(told.digests))


async def _send(call: Any, outgoing: asyncio.Queue[agent_pb2.ConnectRequest]) -> None:
    """Write what is queued, until the stream ends; the reader learns why it did."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await outgoing.get())
