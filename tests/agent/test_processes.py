"""Helper processes end with what they were for."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from milonga_agent.errors import BadBundle
from milonga_agent.plan import Wish
from milonga_agent.processes import ended_within
from milonga_agent.workers import Worker

from tests.devices.world import run


def test_what_a_process_said_is_returned_and_one_that_takes_too_long_is_killed() -> None:
    async def story() -> None:
        pipe = asyncio.subprocess.PIPE
        cat = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
        assert await ended_within(cat, 30, b"hello") == (b"hello", b"")
        endless = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        with pytest.raises(asyncio.TimeoutError):
            await ended_within(endless, 0.01)
        assert endless.returncode == -9

    run(story())


def test_a_worker_that_is_ended_in_the_middle_of_its_answer_is_taken_for_dead_and_no_more() -> None:
    async def story() -> None:
        pipe = asyncio.subprocess.PIPE
        half = 'import os; os.write(1, b\'{"is": "window", "win\'); os.read(0, 99); os.kill(os.getpid(), 9)'
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", half, stdin=pipe, stdout=pipe)
        worker = Worker(Wish(), None, process)  # type: ignore[arg-type]
        with pytest.raises(BadBundle, match="the worker ended while serving"):
            await worker.window()
        assert not worker.alive

    run(story())


class _Ending:
    """A process that ends when a test says so."""

    returncode = 0

    def __init__(self) -> None:
        self.said: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()

    async def communicate(self, given: bytes | None) -> tuple[bytes, bytes]:
        return await self.said


def test_a_cancellation_that_comes_as_the_process_ends_is_not_lost() -> None:
    async def story() -> None:
        process: Any = _Ending()
        waiting = asyncio.ensure_future(ended_within(process, 30))
        for _ in range(3):
            await asyncio.sleep(0)
        process.said.set_result((b"", b""))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(story())
