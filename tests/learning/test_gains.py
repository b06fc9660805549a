"""What an evaluation is expected to add to a front is what it adds on average."""

from __future__ import annotations

import numpy as np
import pytest
from milonga_hub.learning.gains import expected_gains, expected_improvement
from numpy.typing import NDArray
from pymoo.indicators.hv import HV

Floats = NDArray[np.float64]
SLOWEST_MS = 8.0
KNOWN_ACCURACY, KNOWN_MS = np.array([0.5, 0.8, 0.7, 0.9]), np.array([1.0, 2.0, 3.0, 6.0])


def _volume(accuracy: Floats, ms: Floats) -> float:
    points = np.stack([-accuracy, ms], axis=1)
    return float(HV(ref_point=np.array([0.0, SLOWEST_MS]))(points))


def _gain(mean: float, deviation: float, ms: float) -> float:
    found = expected_gains(
        KNOWN_ACCURACY, KNOWN_MS, np.array([mean]), np.array([deviation]), np.array([ms]), SLOWEST_MS
    )
    return float(found[0])


@pytest.mark.parametrize("ms", [0.5, 1.0, 1.5, 2.5, 5.0, 7.9])
@pytest.mark.parametrize(("mean", "deviation"), [(0.4, 0.05), (0.75, 0.1), (0.95, 0.02)])
def test_the_expectation_is_the_mean_of_what_is_gained(ms: float, mean: float, deviation: float) -> None:
    drawn = np.maximum(np.random.default_rng(0).normal(mean, deviation, 4000), 0.0)
    before = _volume(KNOWN_ACCURACY, KNOWN_MS)
    gained = [_volume(np.append(KNOWN_ACCURACY, one), np.append(KNOWN_MS, ms)) - before for one in drawn]
    assert _gain(mean, deviation, ms) == pytest.approx(np.mean(gained), rel=0.1, abs=2e-4)


def test_what_is_surely_dominated_gains_nothing() -> None:
    assert _gain(0.7, 0.0, 2.5) == pytest.approx(0.0, abs=1e-6)


def test_doubt_is_worth_something_where_the_mean_promises_nothing() -> None:
    assert _gain(0.7, 0.1, 2.5) > _gain(0.7, 0.01, 2.5)


def test_what_is_slower_than_the_slowest_gains_nothing() -> None:
    assert _gain(0.99, 0.1, SLOWEST_MS) == 0.0


def test_without_any_front_the_fast_and_accurate_gain_most() -> None:
    none = np.empty(0)
    gains = expected_gains(none, none, np.array([0.9, 0.9, 0.5]), np.zeros(3), np.array([1.0, 4.0, 1.0]), SLOWEST_MS)
    assert gains.argmax() == 0 and gains[0] == pytest.approx(0.9 * 7.0, rel=1e-6)


def test_the_most_accurate_is_sought_by_what_it_is_better_on_average() -> None:
    drawn = np.random.default_rng(0).normal(0.88, 0.05, 200_000)
    found = expected_improvement(0.9, np.array([0.88, 0.88, 0.95]), np.array([0.05, 0.0, 0.0]))
    assert found[0] == pytest.approx(np.maximum(drawn - 0.9, 0.0).mean(), rel=0.02)
    assert found[1] == pytest.approx(0.0, abs=1e-6) and found[2] == pytest.approx(0.05, abs=1e-6)
