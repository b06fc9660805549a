"""Limits that the operator sets: cores, threads and memory of everything that the agent runs."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass


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
