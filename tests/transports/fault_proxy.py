"""A TCP proxy that does to a connection what bad networks do: cuts, delay, corruption, and silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

_READ_BYTES = 64 << 10


@dataclass(frozen=True)
class Fault:
    """What happens to one connection, counted in bytes that went down it, from the server to the client."""

    # The client reads so much, and then the end; the server's side is reset.
    cut_after_bytes: int | None = None
    # One bit of this byte is turned.
    corrupt_at_byte: int | None = None
    # From here on nothing arrives any more, in either direction, and nobody is told: half-open.
    silent_after_bytes: int | None = None
    # Every piece waits so long.
    delay_seconds: float = 0.0


NO_FAULT = Fault()


class FaultProxy:
    """`fault_of` says what happens to the n-th connection, from 0 on."""

    def __init__(self, host: str, port: int, fault_of: Callable[[int], Fault]) -> None:
        self._target = (host, port)
        self._fault_of = fault_of
        self.port = 0
        self.connections = 0
        # What clients received, with all that protocols add.
        self.down_bytes = 0
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._fault_of(self.connections)
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            from_server, upstream = await asyncio.open_connection(*self._target)
            silent = asyncio.Event()
            sides = [
                asyncio.create_task(self._up(reader, upstream, silent)),
                asyncio.create_task(self._down(from_server, writer, fault, silent)),
            ]
            try:
                await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for side in sides:
                    side.cancel()
                await asyncio.gather(*sides, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # The server is not there, or the proxy closes.
        finally:
            self._open.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while content := await reader.read(_READ_BYTES):
            if silent.is_set():
                continue
            writer.write(content)
            await writer.drain()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault, silent: asyncio.Event
    ) -> None:
        sent = 0
        while content := await reader.read(_READ_BYTES):
            if fault.delay_seconds:
                await asyncio.sleep(fault.delay_seconds)
            if fault.corrupt_at_byte is not None and sent <= fault.corrupt_at_byte < sent + len(content):
                at = fault.corrupt_at_byte - sent
                content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            for limit in (fault.cut_after_bytes, fault.silent_after_bytes):
                if limit is not None:
                    content = content[: limit - sent]
            writer.write(content)
            await writer.drain()
            sent += len(content)
            self.down_bytes += len(content)
            if sent == fault.cut_after_bytes:
                # A reset would throw away what lies in the client's socket: what was counted must have come.
                writer.write_eof()
                await asyncio.Event().wait()
            if sent == fault.silent_after_bytes:
                silent.set()
                await asyncio.Event().wait()

    async def close(self) -> None:
        for task in [*self._open]:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


@asynccontextmanager
async def faults(port: int, fault_of: Callable[[int], Fault]) -> AsyncIterator[FaultProxy]:
    """Stand between clients and a server on this machine."""
    proxy = FaultProxy("127.0.0.1", port, fault_of)
    server = await proxy.serve()
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
