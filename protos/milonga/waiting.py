"""Waiting for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(awaitable: Awaitable[T], seconds: float) -> T:
    """Return what it comes to. Raises asyncio.TimeoutError where that takes longer; it is cancelled then, as where this is.

    In the place of asyncio.wait_for, which before Python 3.12 loses a cancellation that comes together with what is waited for
    (CPython issue 86296), so that what should have ended goes on.
    """
    work = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([work], timeout=seconds)
        if not work.done():
            work.cancel()
            await asyncio.wait([work])
    except asyncio.CancelledError:
        work.cancel()
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # Looked at, so that nobody is told of it as of one that was forgotten.
        raise
    if work.cancelled():
        raise asyncio.TimeoutError
    return work.result()
