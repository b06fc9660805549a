"""Who asks at the desk gets the answer of the worker that was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from milonga_hub.cluster.desk import Desk


async def _work(desk: Desk, rank: int, questions: int) -> None:
    """Answer as a worker does, with its own rank."""
    for _ in range(questions):
        name, arguments = await desk.next(rank)
        if name == "fail":
            await desk.answer(rank, None, ValueError(f"{rank} cannot"))
        else:
            await desk.answer(rank, (rank, name, *arguments), None)


def test_each_question_is_answered_by_the_worker_that_was_asked_in_its_order() -> None:
    async def ask() -> list[Any]:
        desk = Desk(2)
        workers = [asyncio.create_task(_work(desk, rank, 2)) for rank in (0, 1)]
        asked = [desk.ask(rank, name, 7) for name in ("first", "second") for rank in (0, 1)]
        answers = await asyncio.gather(*asked)
        await asyncio.gather(*workers)
        return answers

    assert asyncio.run(ask()) == [(0, "first", 7), (1, "first", 7), (0, "second", 7), (1, "second", 7)]


def test_what_a_worker_raises_is_raised_where_it_was_asked() -> None:
    async def ask() -> None:
        desk = Desk(1)
        worker = asyncio.create_task(_work(desk, 0, 2))
        with pytest.raises(ValueError, match="0 cannot"):
            await desk.ask(0, "fail")
        # It goes on answering.
        assert await desk.ask(0, "again") == (0, "again")
        await worker

    asyncio.run(ask())
