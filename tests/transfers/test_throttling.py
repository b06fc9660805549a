"""Limits on bandwidth hold over time, and are shared by turns."""

from __future__ import annotations

import asyncio

from milonga.throttling import Throttle


class _Time:
    """Passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.now + seconds, woken))
        await woken.wait()

    async def pass_by(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            self._sleepers.sort(key=lambda pair: pair[0])
            if not self._sleepers or self._sleepers[0][0] > end:
                self.now = end
                return
            self.now, woken = self._sleepers.pop(0)
            woken.set()


def test_so_many_kilobits_pass_in_a_second_and_all_get_their_share() -> None:
    async def story() -> None:
        time = _Time()
        throttle = Throttle(800, time, time.sleep)  # 100 kB/s
        passed = dict.fromkeys("abc", 0)

        async def load(name: str) -> None:
            while True:
                await throttle.take(throttle.piece_bytes)
                passed[name] += throttle.piece_bytes

        tasks = [asyncio.create_task(load(name)) for name in passed]
        await time.pass_by(60.0)
        for task in tasks:
            task.cancel()
        assert 5_900_000 <= sum(passed.values()) <= 6_100_000
        assert max(passed.values()) - min(passed.values()) <= throttle.piece_bytes

    asyncio.run(story())


def test_without_a_limit_nobody_waits() -> None:
    throttle = Throttle(0)
    asyncio.run(throttle.take(1 << 40))
    assert throttle.piece_bytes == 0
