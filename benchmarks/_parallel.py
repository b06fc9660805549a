"""Trainings side by side: one process a core, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks._digits import told

Item = TypeVar("Item")
Found = TypeVar("Found")


def together(work: Callable[[Item], Found], items: Sequence[Item], what: str) -> list[Found]:
    """Return what `work`, a function of a module, makes of each item, in their order. Those that take longest come first best.

    With one thread each, what comes out does not depend on how many cores there are.
    """
    cores = len(os.sched_getaffinity(0))
    # Not forked: torch's threads would not come along.
    with multiprocessing.get_context("spawn").Pool(min(cores, len(items)), _begin) as pool:
        return list(told(pool.imap(work, items), what, len(items)))


def _begin() -> None:
    torch.set_num_threads(1)
    # How far each of them is would be told all at once.
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 -- until the process ends
