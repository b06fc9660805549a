"""Wait until a disk that was full has room."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

_EVERY_SECONDS = 5.0
# A build's scratch files are gone when it has ended, so free space alone says nothing; what somebody makes room for is more than this.
_MORE_BYTES = 64 << 20
# Whatever the figures say: others may have filled the disk for a moment, and a quota shows in none of them.
_LONGEST_SECONDS = 600.0

Free = Mapping[str, int]


def free(workdir: Path) -> Free:
    """Return the free bytes where jobs write: their folder, and the one for scratch files."""
    places = [next(path for path in (workdir, *workdir.parents) if path.exists()), Path(tempfile.gettempdir())]
    return {str(path): shutil.disk_usage(path).free for path in places}


def enough(before: Free, now: Free, waited_seconds: float) -> bool:
    """Return whether it is worth another try."""
    more = any(now[place] - known >= _MORE_BYTES for place, known in before.items() if place in now)
    return more or waited_seconds >= _LONGEST_SECONDS


async def awaited(workdir: Path) -> None:
    """Return once there is more room than now, or ten minutes later."""
    before, began = free(workdir), time.monotonic()
    while not enough(before, free(workdir), time.monotonic() - began):
        await asyncio.sleep(_EVERY_SECONDS)
