"""CPU time and memory of a process with its children, read from outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import psutil


class Meter:
    """One process; its children are those that it has when the meter is made."""

    def __init__(self, pid: int) -> None:
        process = psutil.Process(pid)
        self._processes = [process, *process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def kilobytes(self) -> float:
        return sum(process.memory_info().rss for process in self._processes) / 1e3

    async def of(self, work: Callable[[], Awaitable[object]]) -> float:
        """Return the CPU seconds that the process spends while the work is done."""
        before = self.cpu_seconds()
        await work()
        return self.cpu_seconds() - before
