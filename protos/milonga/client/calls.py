"""Calls to a hub for programs that wait: one way for each kind of method, all typed services are made of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from milonga.client.channel import open_channel
from milonga.client.content import Content, chunks_of
from milonga.client.endpoint import Endpoint
from milonga.client.errors import of_call
from milonga.client.retries import Retries
from milonga.client.watching import Watching

R = TypeVar("R", bound=Message)
Q = TypeVar("Q", bound=Message)
T = TypeVar("T")


class Calls:
    """One channel to one hub."""

    def __init__(self, endpoint: Endpoint, retries: Retries, timeout: float) -> None:
        self._address = endpoint.address
        self._retries = retries
        self._timeout = timeout
        self._is_closed = False
        self.channel = open_channel(endpoint.address, endpoint.authority, endpoint.key, retries)

    def close(self) -> None:
        """End all calls; watches end without an error."""
        self._is_closed = True
        self.channel.close()

    def unary(self, path: str, request: Message, response: type[R], timeout: float | None) -> R:
        """Ask once."""
        call: Any = self.channel.unary_unary(path, _bytes, response.FromString)
        try:
            answer: R = call(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise of_call(error, self._address) from error
        return answer

    def pages(
        self, path: str, request: Any, response: type[R], rows: Callable[[R], Iterable[T]], timeout: float | None
    ) -> Iterator[T]:
        """Yield the rows of all pages; the next page is asked for when it is needed."""
        while True:
            page: Any = self.unary(path, request, response, timeout)
            yield from rows(page)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def rows(
        self, path: str, request: Message, response: type[R], rows: Callable[[R], Iterable[T]], timeout: float | None
    ) -> Iterator[T]:
        """Yield the rows of a list that comes whole."""
        yield from rows(self.unary(path, request, response, timeout))

    def watch(self, path: str, request: Message, response: type[R], item: Callable[[R], T]) -> Iterator[T]:
        """Yield what a stream sends, and go on with a new one where it breaks."""
        watching = Watching(request, self._retries)
        while not self._is_closed:
            call: Any = self.channel.unary_stream(path, _bytes, response.FromString)(watching.open())
            try:
                for each in call:
                    found = item(each)
                    if watching.is_new(found):
                        yield found
                return
            except grpc.RpcError as error:
                if self._is_closed:
                    return
                pause = watching.pause(call.code())
                if pause is None:
                    raise of_call(error, self._address) from error
            finally:
                call.cancel()
            time.sleep(pause)

    def download(self, path: str, request: Message, response: type[R], timeout: float | None) -> Iterator[bytes]:
        """Yield the chunks of a file."""
        call: Any = self.channel.unary_stream(path, _bytes, response.FromString)(request, timeout=timeout)
        try:
            for each in call:
                yield each.chunk
        except grpc.RpcError as error:
            raise of_call(error, self._address) from error
        finally:
            call.cancel()

    def upload(
        self,
        path: str,
        header: Q,
        part: Callable[[bytes], Q],
        content: Content,
        response: type[R],
        timeout: float | None,
    ) -> R:
        """Send a header and a file in chunks."""

        def requests() -> Iterator[Q]:
            yield header
            yield from (part(chunk) for chunk in chunks_of(content))

        call: Any = self.channel.stream_unary(path, _bytes, response.FromString)
        try:
            answer: R = call(requests(), timeout=timeout)
        except grpc.RpcError as error:
            raise of_call(error, self._address) from error
        return answer


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
