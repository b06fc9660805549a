"""Write what the hub has for a connected device. Nearly all of a fleet is idle: then there is no task and no future for it here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from milonga_hub.devices.streams import DeviceStream, Outgoing


class Writing:
    """Begin it in the task that reads of the same stream: that is cancelled when the hub ends the stream or writing fails."""

    __slots__ = ("_reader", "_stream", "_task", "_write", "problem")

    def __init__(self, stream: DeviceStream, write: Callable[[Outgoing], Awaitable[None]]) -> None:
        self._stream = stream
        self._write = write
        self._reader = asyncio.current_task()
        self._task: asyncio.Task[None] | None = None
        # Why reading was cancelled, None where somebody else did that.
        self.problem: Exception | None = None
        stream.listen(self._wake)

    async def stop(self) -> None:
        """Write no more."""
        self._reader = None
        self._stream.listen(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _wake(self) -> None:
        # At once, also while a device takes nothing of what is written to it: it may have been shut out for that.
        if self._stream.closed is not None:
            self._end(self._stream.closed)
        elif self._task is None:
            self._task = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while (message := self._stream.take()) is not None:
                await self._write(message)
        except Exception as error:
            self._end(error)
        finally:
            self._task = None

    def _end(self, problem: Exception) -> None:
        if self.problem is None:
            self.problem = problem
            # Not at once: what reads may be what ends its own stream, and shall come to its next wait first.
            asyncio.get_running_loop().call_soon(self._cancel_reader)

    def _cancel_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
