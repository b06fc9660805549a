"""Limits that the operator sets: cores, threads and memory of everything that the agent runs."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Limits:
    """`cpus` empty means all that the agent has; `memory_bytes` 0 means no limit.

    Memory is limited by RLIMIT_DATA in the workers, which counts private writable memory. A limit on address space
    would also count files that engines only map, and a worker would not even start.
    """

    threads: int = 1
    cpus: tuple[int, ...] = ()
    memory_bytes: int = 0

    def apply_cpus(self) -> None:
        """Keep this process, and all that it starts from now on, on these cores."""
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)

    def apply_memory(self) -> None:
        """Refuse this process more memory than this."""
        if self.memory_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (self.memory_bytes, self.memory_bytes))


def default_threads() -> int:
    return len(os.sched_getaffinity(0))


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before. Whoever inherits its children (init, a session's manager) is of another group; in a
        # container the parent itself may be process 1.
        if os.getpgid(os.getppid()) != os.getpgrp():
            os._exit(1)
