"""Limits that the operator sets: cores, threads and memory of everything that the agent runs."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from milonga_agent.sensors import ROOT, first_line

_GROUP = "sys/fs/cgroup"


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


def default_threads(root: Path = ROOT) -> int:
    """Return one thread for each core that this process may use, or fewer where its container has a quota of their time.

    More than the quota feeds would be stopped together for the rest of each period, in the middle of an answer.
    """
    cores = len(os.sched_getaffinity(0))
    quota, _, period = first_line(str(root / _GROUP / "cpu.max")).partition(" ")
    if not quota:  # Version 1 of control groups has a file for each; -1 is no quota.
        quota, period = (first_line(str(root / _GROUP / f"cpu/cpu.cfs_{name}_us")) for name in ("quota", "period"))
    if not (quota.isdigit() and period.isdigit()):
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))
