"""How much processor time and memory the agent and its workers take."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

# Of /proc/PID/stat, counted behind the name, which may hold spaces and parentheses: see proc_pid_stat(5).
_PARENT, _USER, _SYSTEM, _RESIDENT = 1, 11, 12, 21


class Process(NamedTuple):
    """What one process takes, since it began."""

    pid: int
    parent: int
    cpu_seconds: float
    memory_bytes: int


class Usage:
    """CPU and memory of the daemon and its workers."""

    def __init__(self) -> None:
        self._since: tuple[float, dict[int, float]] | None = None

    def take(self) -> tuple[float, int]:
        """Return CPU in percent of one core since the last time, and memory in bytes."""
        processes = list(family(os.getpid()))
        used = {process.pid: process.cpu_seconds for process in processes}
        return self._cpu_percent(used), sum(process.memory_bytes for process in processes)

    def _cpu_percent(self, used: dict[int, float]) -> float:
        now = time.monotonic()
        before, self._since = self._since or (now, used), (now, used)
        seconds = now - before[0]
        spent = sum(value - before[1].get(pid, 0.0) for pid, value in used.items())
        return max(0.0, 100.0 * spent / seconds) if seconds > 0 else 0.0


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return the most memory that this process has held.

    On Linux getrusage does not tell: a program begins with the peak of the process that started it (exec_mmap of fs/exec.c).
    """
    try:
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def family(pid: int) -> Iterator[Process]:
    """Yield the process and its children."""
    for process in running() if sys.platform == "linux" else _all_elsewhere(pid):
        if pid in (process.pid, process.parent):
            yield process


def running(root: Path = Path("/proc")) -> Iterator[Process]:
    """Yield what the kernel tells of each process. psutil reads the same, and takes 0.8 MB that the daemon has for years."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for folder in root.iterdir():
        if folder.name.isdigit():
            try:
                told = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                parent, user, system, resident = (int(told[at]) for at in (_PARENT, _USER, _SYSTEM, _RESIDENT))
            except (OSError, IndexError, ValueError):
                continue  # It has ended, or is somebody else's.
            yield Process(int(folder.name), parent, (user + system) / ticks, resident * page)


def _all_elsewhere(pid: int) -> Iterable[Process]:
    import psutil

    for process in (psutil.Process(pid), *psutil.Process(pid).children()):
        try:
            times = process.cpu_times()
            yield Process(process.pid, process.ppid(), times.user + times.system, process.memory_info().rss)
        except psutil.Error:
            continue
