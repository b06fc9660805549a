"""Who holds a data folder: one process, or the hubs of one database together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def hold(folder: Path, *, alone: bool = True) -> int | None:
    """Hold the folder for this process alone, until the descriptor is closed; None while another process does.

    With `alone=False`, beside others that hold it so.

    The kernel lets go of it when the process ends, however it ends.
    """
    descriptor = os.open(folder / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def beginning(folder: Path) -> Iterator[None]:
    """Let one process at a time make what is missing in the folder; others wait for the end of the block."""
    descriptor = os.open(folder / "begin.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def own(folder: Path) -> tuple[Path, int]:
    """Return a folder that no other hub has which holds the data folder too, and the descriptor that holds it.

    The first is the data folder itself; those of others are the same again after they ended.
    """
    for number in range(1, 1000):
        place = folder if number == 1 else folder / "hubs" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place / "own.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return place, descriptor
    raise OSError(f"a thousand hubs use {folder}")
