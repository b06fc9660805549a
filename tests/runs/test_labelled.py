"""Labels that come one by one call a version worse seldom where it is not, and soon where it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.runs.rules_labelled import chance_of_so_few


def test_a_version_that_is_as_accurate_as_asked_for_is_seldom_called_worse_however_often_one_looks() -> None:
    random, called = np.random.default_rng(1), 0
    for _ in range(200):
        right = np.cumsum(random.random(2000) < 0.8)
        called += any(chance_of_so_few(int(right[n - 1]), n, 0.8) <= 0.025 for n in range(50, 2001, 25))
    # An interval of 95 % for one look is left by a fourth of them; here five are allowed, and three standard deviations.
    assert called <= 12


def test_a_version_that_is_worse_is_called_so_in_time() -> None:
    random, needed = np.random.default_rng(1), []
    for _ in range(21):
        right = np.cumsum(random.random(3000) < 0.7)
        needed.append(next(n for n in range(1, 3001) if chance_of_so_few(int(right[n - 1]), n, 0.8) <= 0.025))
    assert np.median(needed) < 300


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.01, 1.0))
def test_the_more_are_right_the_better_chance_explains_them(right: int, wrong: int, share: float) -> None:
    chance = chance_of_so_few(right, right + wrong, share)
    assert 0.0 <= chance <= chance_of_so_few(right + 1, right + 1 + wrong, share) <= 1.0
    assert chance == 1.0 or right < share * (right + wrong)
