"""milonga.waiting: a limit of time that loses nothing."""

from __future__ import annotations

import asyncio

import pytest
from milonga.waiting import within


async def _answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


def test_what_comes_in_time_is_returned() -> None:
    assert asyncio.run(within(_answer(7), 60.0)) == 7


def test_what_fails_fails_as_it_would_alone() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(within(fail(), 60.0))


def test_what_takes_too_long_is_cancelled_and_has_ended() -> None:
    ended = []

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await within(long(), 0.0)
        assert ended

    asyncio.run(main())


@pytest.mark.parametrize("steps", range(6))
def test_a_cancellation_is_not_lost_however_close_it_comes_to_the_answer(steps: int) -> None:
    async def main() -> None:
        came = asyncio.Event()

        async def life() -> None:
            while True:
                await within(came.wait(), 60.0)
                await within(asyncio.Event().wait(), 60.0)

        task = asyncio.ensure_future(life())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        came.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=60.0)
        assert task.cancelled()

    asyncio.run(main())
