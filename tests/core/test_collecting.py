"""What waits to be written is not walked through again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from milonga_hub.collecting import leave_what_stays


@pytest.fixture
def restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_a_few_hundred_windows_do_not_start_the_collector(restored: None) -> None:
    leave_what_stays()
    walks = sum(each["collections"] for each in gc.get_stats())
    waiting = [[{"window": [number]}] for number in range(3000)]
    assert sum(each["collections"] for each in gc.get_stats()) == walks
    assert len(waiting) == 3000
