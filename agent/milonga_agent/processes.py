"""Helper processes of the daemon: each does one thing, says what came of it, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from milonga.waiting import within


async def next_said(stdout: asyncio.StreamReader) -> dict[str, Any] | None:
    """Return the next line of JSON that a process says; None once it has ended, be it in the middle of a line."""
    line = await stdout.readline()
    if not line.endswith(b"\n"):
        return None
    said: dict[str, Any] = json.loads(line)
    return said


async def ended_within(
    process: asyncio.subprocess.Process, seconds: float, given: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return what the process wrote to stdout and stderr, once it has ended; empty where that is no pipe.

    Raises asyncio.TimeoutError where it has not ended by then. It is killed then, and where this is cancelled.
    """
    try:
        out, errors = await within(process.communicate(given), seconds)
        return out or b"", errors or b""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
