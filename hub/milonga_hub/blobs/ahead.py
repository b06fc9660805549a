"""Keep many small blobs in a store that takes its time for each: several at once, and no more in memory than those."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from milonga_hub.blobs.interface import Blobs, digest_of

_AT_ONCE = 16


class Ahead:
    """Returns from `put` before the bytes are kept. They are once `finish` returns, or it raises what went wrong."""

    def __init__(self, blobs: Blobs, threads: ThreadPoolExecutor) -> None:
        self._blobs, self._threads = blobs, threads
        self._room = threading.Semaphore(2 * _AT_ONCE)
        self._sent: set[Future[str]] = set()

    @staticmethod
    def threads() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_AT_ONCE, "keeping")

    def put(self, data: bytes) -> str:
        """Return the digest; raises what went wrong with an earlier one."""
        for future in [one for one in self._sent if one.done()]:
            self._sent.discard(future)
            future.result()
        self._room.acquire()
        self._sent.add(self._threads.submit(self._put, data))
        return digest_of(data)

    def finish(self) -> None:
        """Wait for all."""
        while self._sent:
            self._sent.pop().result()

    def _put(self, data: bytes) -> str:
        try:
            return self._blobs.put(data)
        finally:
            self._room.release()
