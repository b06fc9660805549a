"""Helper processes of the daemon: each does one thing, says what came of it, and ends."""

from __future__ import annotations

import asyncio
import contextlib


async def ended_within(
    process: asyncio.subprocess.Process, seconds: float, given: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return what the process wrote to stdout and stderr, once it has ended; empty where that is no pipe.

    Raises asyncio.TimeoutError where it has not ended by then. It is killed then, and where this is cancelled.
    """
    # Not asyncio.wait_for: before Python 3.12 that loses a cancellation that comes as the process ends.
    said = asyncio.ensure_future(process.communicate(given))
    try:
        await asyncio.wait([said], timeout=seconds)
        if not said.done():
            raise asyncio.TimeoutError
        out, errors = said.result()
        return out or b"", errors or b""
    finally:
        said.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
