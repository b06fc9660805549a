"""Talk to the hub: enrol, keep one stream open, fetch blobs. The agent always dials out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from milonga.v1 import agent_pb2, agent_pb2_grpc

from milonga_agent.errors import AgentError, HubUnreachable, Refused
from milonga_agent.state import Identity

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
        raise HubUnreachable(f"no hub answers at {address}; check the address, and that `milonga up` runs") from error
    raise AgentError(f"the hub failed: {error.code().name}: {error.details()}") from error


class Hub:
    """The hub at one address. Use it inside an event loop and close it."""

    def __init__(self, address: str, identity: Identity | None = None) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub: Any = agent_pb2_grpc.AgentServiceStub(self._channel)
        self._metadata = (("authorization", f"Device {identity.device}:{identity.secret}"),) if identity else ()

    async def close(self) -> None:
        await self._channel.close()

    async def enrol(self, request: agent_pb2.EnrolRequest) -> Identity:
        """Exchange a join token for an identity. Raises Refused or HubUnreachable."""
        try:
            answer = await self._stub.Enrol(request, timeout=_ENROL_SECONDS)
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)
            raise
        # A hub that listens everywhere is reached where it answered just now.
        everywhere = ("", "0.0.0.0", "::")  # noqa: S104
        host = self.address.rpartition(":")[0] if answer.mqtt_host in everywhere else answer.mqtt_host
        return Identity(answer.device, answer.secret, answer.device_type, self.address, host, answer.mqtt_port)

    async def connect(
        self, outgoing: asyncio.Queue[agent_pb2.ConnectRequest], handle: Callable[[agent_pb2.ConnectResponse], None]
    ) -> None:
        """Keep the stream open, sending what is queued and handling what comes. Returns only by raising."""

        call = self._stub.Connect(metadata=self._metadata)
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
            async for part in self._stub.FetchBlob(request, metadata=self._metadata):
                yield part.chunk
        except grpc.aio.AioRpcError as error:
            _raise(error, self.address)

    async def metadata(self, name: str) -> bytes | None:
        """Return a file of signed metadata, or None where the hub has none. Raises Refused or HubUnreachable."""
        request = agent_pb2.FetchMetadataRequest(name=name)
        try:
            answer = await self._stub.FetchMetadata(request, metadata=self._metadata, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            # A hub from before it signed anything does not know the call.
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
                return None
            _raise(error, self.address)
            raise
        return bytes(answer.content)


async def _send(call: Any, outgoing: asyncio.Queue[agent_pb2.ConnectRequest]) -> None:
    """Write what is queued, until the stream ends; the reader learns why it did."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await outgoing.get())
