"""Let only so many bytes a second through, in the order in which they ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# What passes at once after a pause, in seconds of the rate.
_BURST_SECONDS = 0.25
# No piece holds the line for longer, so that many share it by turns.
_PIECE_SECONDS = 0.25
SMALLEST_PIECE_BYTES = 4096


class Throttle:
    """A limit in kilobits a second, 0 for none. Whoever takes waits until what was taken before has passed."""

    def __init__(
        self,
        kbps: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_second = kbps * 1000 / 8
        self._clock = clock
        self._sleep = sleep
        # When all that was taken has passed.
        self._free_at = clock() - _BURST_SECONDS

    @property
    def piece_bytes(self) -> int:
        """Return how much should be taken at once, 0 where it does not matter."""
        if not self._bytes_per_second:
            return 0
        return max(SMALLEST_PIECE_BYTES, int(self._bytes_per_second * _PIECE_SECONDS))

    async def take(self, size_bytes: int) -> None:
        """Return when so many bytes may pass."""
        if not self._bytes_per_second:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - _BURST_SECONDS) + size_bytes / self._bytes_per_second
        if self._free_at > now:
            await self._sleep(self._free_at - now)
