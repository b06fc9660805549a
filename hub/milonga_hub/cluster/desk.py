"""Where a driver asks the workers of a team, and they answer.

Ray Train has its workers to itself: nobody else may call them. So each comes here for what it is asked next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any


class Desk:
    """An actor of Ray, whose calls are served side by side."""

    def __init__(self, workers: int) -> None:
        self._asked: list[asyncio.Queue[tuple[str, Sequence[Any]]]] = [asyncio.Queue() for _ in range(workers)]
        self._answers: list[asyncio.Queue[tuple[Any, Exception | None]]] = [asyncio.Queue() for _ in range(workers)]

    async def ask(self, rank: int, name: str, *arguments: Any) -> Any:
        """Return what the station of this worker answers. One question at a time for each; raises what the station raised."""
        self._asked[rank].put_nowait((name, arguments))
        value, error = await self._answers[rank].get()
        if error is not None:
            raise error
        return value

    async def next(self, rank: int) -> tuple[str, Sequence[Any]]:
        """Return what this worker is asked next, once it is."""
        return await self._asked[rank].get()

    async def answer(self, rank: int, value: Any, error: Exception | None) -> None:
        self._answers[rank].put_nowait((value, error))
