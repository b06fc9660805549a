"""Calls to a hub for asyncio: the same ways as in milonga.client.calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from milonga.client.channel import open_async_channel
from milonga.client.content import Content, chunks_of
from milonga.client.endpoint import Endpoint
from milonga.client.errors import of_call
from milonga.client.retries import Retries
from milonga.client.watching import Watching

R = TypeVar("R", bound=Message)
Q = TypeVar("Q", bound=Message)
T = TypeVar("T")


class AsyncCalls:
    """One channel to one hub, which is opened and closed on the loop that uses it."""

    def __init__(self, retries: Retries, timeout: float) -> None:
        self._retries = retries
        self._timeout = timeout
        self._address = ""
        self._is_closed = False
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The open channel."""
        if self._channel is None:
            raise RuntimeError("the client is not open; write: async with AsyncClient() as hub")
        return self._channel

    def open(self, endpoint: Endpoint) -> None:
        """Open the channel."""
        self._address = endpoint.address
        self._channel = open_async_channel(endpoint.address, endpoint.authority, endpoint.key, self._retries)

    async def close(self) -> None:
        """End all calls; watches end without an error."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()

    async def unary(self, path: str, request: Message, response: type[R], timeout: float | None) -> R:
        """Ask once."""
        call: Any = self.channel.unary_unary(path, _bytes, response.FromString)
        try:
            answer: R = await call(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise of_call(error, self._address) from error
        return answer

    async def pages(
        self, path: str, request: Any, response: type[R], rows: Callable[[R], Iterable[T]], timeout: float | None
    ) -> AsyncIterator[T]:
        """Yield the rows of all pages; the next page is asked for when it is needed."""
        while True:
            page: Any = await self.unary(path, request, response, timeout)
            for row in rows(page):
                yield row
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def rows(
        self, path: str, request: Message, response: type[R], rows: Callable[[R], Iterable[T]], timeout: float | None
    ) -> AsyncIterator[T]:
        """Yield the rows of a list that comes whole."""
        for row in rows(await self.unary(path, request, response, timeout)):
            yield row

    async def watch(self, path: str, request: Message, response: type[R], item: Callable[[R], T]) -> AsyncIterator[T]:
        """Yield what a stream sends, and go on with a new one where it breaks."""
        watching = Watching(request, self._retries)
        while not self._is_closed:
            call: Any = self.channel.unary_stream(path, _bytes, response.FromString)(watching.open())
            try:
                async for each in call:
                    found = item(each)
                    if watching.is_new(found):
                        yield found
                return
            except grpc.RpcError as error:
                if self._is_closed:
                    return
                pause = watching.pause(await call.code())
                if pause is None:
                    raise of_call(error, self._address) from error
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    async def download(
        self, path: str, request: Message, response: type[R], timeout: float | None
    ) -> AsyncIterator[bytes]:
        """Yield the chunks of a file."""
        call: Any = self.channel.unary_stream(path, _bytes, response.FromString)(request, timeout=timeout)
        try:
            async for each in call:
                yield each.chunk
        except grpc.RpcError as error:
            raise of_call(error, self._address) from error
        finally:
            call.cancel()

    async def upload(
        self,
        path: str,
        header: Q,
        part: Callable[[bytes], Q],
        content: Content,
        response: type[R],
        timeout: float | None,
    ) -> R:
        """Send a header and a file in chunks, which are read beside the loop."""

        async def requests() -> AsyncIterator[Q]:
            yield header
            chunks = chunks_of(content)
            while True:
                chunk = await asyncio.to_thread(next, chunks, None)
                if chunk is None:
                    return
                yield part(chunk)

        call: Any = self.channel.stream_unary(path, _bytes, response.FromString)
        try:
            answer: R = await call(requests(), timeout=timeout)
        except grpc.RpcError as error:
            raise of_call(error, self._address) from error
        return answer


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
