"""The two clients: one that waits, and one for asyncio. Their methods come from the protocol's own description."""

from __future__ import annotations

import asyncio
from types import TracebackType

import grpc

from milonga.client.async_calls import AsyncCalls
from milonga.client.async_services import AsyncServices
from milonga.client.calls import Calls
from milonga.client.endpoint import find
from milonga.client.retries import Retries
from milonga.client.services import Services

# Far above what any call takes that does not send files; a hub that hangs is told of.
TIMEOUT_SECONDS = 60.0


class Client(Services):
    """A hub, for programs that wait for its answers.

        with Client() as hub:
            for device in hub.devices.list_devices(selector="site=busan"):
                print(device.name, device.active_version)

    Safe to use from several threads. A process that forks opens its own after it has forked.
    """

    def __init__(
        self,
        address: str = "",
        key: str | None = None,
        *,
        fingerprint: str = "",
        retries: Retries = Retries(),
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Find the hub as the command line does, by what is given and else by MILONGA_HUB, MILONGA_API_KEY,
        MILONGA_HUB_FINGERPRINT, and what `milonga trust` and `milonga login` have kept.

        Args:
            address: HOST:PORT of its gRPC server; 127.0.0.1:8443 where neither this nor MILONGA_HUB says another.
            key: An API key; "" makes a stranger.
            fingerprint: Of the hub's authority, as `milonga up` prints it. A hub on this machine needs none.
            retries: How long a hub that does not answer is tried again.
            timeout: Seconds for a call that says none itself.

        Raises:
            NotTrusted: Nobody has vouched for the hub, or it shows another authority.
            Unreachable: It had to be asked for its authority, and does not answer.
        """
        self.endpoint = find(address, key, fingerprint)
        self._calls = Calls(self.endpoint, retries, timeout)
        super().__init__(self._calls)

    @property
    def channel(self) -> grpc.Channel:
        """The channel, for stubs of your own."""
        return self._calls.channel

    def close(self) -> None:
        """End all calls; watches of other threads end without an error."""
        self._calls.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(AsyncServices):
    """A hub, for asyncio. Open it on the loop that uses it.

    async with AsyncClient() as hub:
        async for device in hub.devices.list_devices(selector="site=busan"):
            print(device.name, device.active_version)
    """

    def __init__(
        self,
        address: str = "",
        key: str | None = None,
        *,
        fingerprint: str = "",
        retries: Retries = Retries(),
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Take what Client takes. The hub is looked for when the client is opened, which raises what Client raises."""
        self._find = lambda: find(address, key, fingerprint)
        self._calls = AsyncCalls(retries, timeout)
        super().__init__(self._calls)

    async def open(self) -> AsyncClient:
        """Find the hub and return this client; `async with` does it."""
        self.endpoint = await asyncio.to_thread(self._find)
        self._calls.open(self.endpoint)
        return self

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, for stubs of your own."""
        return self._calls.channel

    async def close(self) -> None:
        """End all calls; watches of other tasks end without an error."""
        await self._calls.close()

    async def __aenter__(self) -> AsyncClient:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
