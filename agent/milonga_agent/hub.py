"""Talk to the hub: enrol, keep one stream open, fetch blobs. The agent always dials out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from milonga.pinning import HUB_NAME
from milonga.v1 import agent_pb2, agent_pb2_grpc

from milonga_agent.errors import AgentError, HubUnreachable, Refused
from milonga_agent.state import Credentials, Identity, Store

_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A fleet that lost its hub must find it again within seconds.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
_ENROL_SECONDS = 15.0
_CALL_SECONDS = 30.0
# What no repetition changes.
_FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.INVALID_ARGUMENT,
}


def _raise(error: Any, address: str) -> None:
    if error.code() in _FINAL:
        raise Refused(f"the hub refuses: {error.details()}") from error
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise HubUnreachable(
            f"no hub answers at {address}, or it does not take this device's certificate; check the address, and that"
            " `milonga up` runs"
        ) from error
    raise AgentError(f"the hub failed: {error.code().name}: {error.details()}") from error


def _channel(address: str, credentials: grpc.ChannelCredentials) -> Any:
    # Every hub's certificate bears this name; the authority, which is pinned, tells hubs apart.
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", HUB_NAME)]
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


class Hub:
    """The hub as a device sees it. Use it inside an event loop and close it."""

    def __init__(self, identity: Identity, credentials: Credentials) -> None:
        self.address = f"{identity.hub.rpartition(':')[0]}:{identity.device_port}"
        self._channel = _channel(
            self.address,
            grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate),
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

    async def fetch(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        """Yield a blob from an offset on. Raises Refused or HubUnreachable."""
        request = agent_pb2.FetchBlobRequest(digest=digest, offset_bytes=offset)
        try:
            async for part in self._stub.FetchBlob(request):
                yield part.chunk
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)

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


class Courier:
    """Fetches from the hub beside the stream, on connections of their own, with the identity and certificate of now."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def fetch(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        """Yield a blob from an offset on. Raises Refused or HubUnreachable."""
        hub = self._hub()
        try:
            async for chunk in hub.fetch(digest, offset):
                yield chunk
        finally:
            await hub.close()

    async def metadata(self, name: str) -> bytes | None:
        """Return a file of signed metadata, or None where the hub has none. Raises Refused or HubUnreachable."""
        hub = self._hub()
        try:
            return await hub.metadata(name)
        finally:
            await hub.close()

    def _hub(self) -> Hub:
        identity = self._store.identity()
        if identity is None:
            raise Refused("this device has joined no hub")
        return Hub(identity, self._store.credentials())


async def _send(call: Any, outgoing: asyncio.Queue[agent_pb2.ConnectRequest]) -> None:
    """Write what is queued, until the stream ends; the reader learns why it did."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await outgoing.get())
