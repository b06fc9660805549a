"""Evidence is gathered for ever and seldom wrong, whatever is allowed, and finds a change soon after it began."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milonga_hub.evalues import spread
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.rules_allowed import Allowed, Balls, allowed, at_most
from milonga_hub.telemetry.rules_sequential import (
    MAX_MOMENTS,
    MONTH_SECONDS,
    Evidence,
    Watch,
    advance,
    drifted,
    evidence,
    fresh,
    is_allowed,
    least_won,
    renewed,
    stability_index,
)
from milonga_hub.telemetry.rules_watching import after, watched
from numpy.typing import NDArray
from scipy.stats import multinomial

from tests.telemetry.windows import beta_counts, plausible_counts, reference_of, window_of

Counts = Callable[[np.random.Generator], NDArray[np.float64]]
SHARES = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3).map(lambda values: np.array(values) / sum(values))
# What a month in which 1,000 signals are watched asks for, at one false alarm in ten months.
ENOUGH = math.log(1000 / 0.1)


def _watched(one: Allowed, windows: list[NDArray[np.float64]]) -> tuple[int | None, Evidence]:
    """Return the first window, by place, at which there is enough evidence, and this evidence."""
    watch, found = fresh(one), Evidence()
    for place, counts in enumerate(windows):
        watch = advance(watch, counts, 30.0 * place, 30.0 * (place + 1))
        (found,) = evidence([watch], [one])
        if found.log_won >= ENOUGH:
            return place, found
    return None, found


def _brightness(seed: int, size: int = 360, index: float = 0.25) -> tuple[np.random.Generator, Allowed]:
    random = np.random.default_rng(seed)
    one = allowed(beta_counts(random, size, 9, 20), index)
    assert one is not None
    return random, one


@settings(max_examples=40, deadline=None)
@given(SHARES, SHARES, st.floats(0.0, 0.3), st.booleans())
def test_what_is_won_is_at_most_the_stake_on_average_for_every_allowed_distribution(
    expected: NDArray[np.float64], true: NDArray[np.float64], radius: float, one_sided: bool
) -> None:
    """Exactly: the sum over all that six answers may be, each with its probability."""
    if one_sided:
        expected, true = (np.array([one[0], one[1] + one[2]]) for one in (expected, true))
    one = Allowed(((0,), (1,), (2,))[: len(expected)], expected, radius, one_sided)
    true = Balls([one]).nearest(true[None])[0]
    answers, total = 6, 0.0
    for split in combinations_with_replacement(range(len(expected)), answers):
        counts = np.bincount(split, minlength=len(expected)).astype(float)
        (found,) = evidence([Watch(counts[None], np.ones(1), (0.0,))], [one])
        total += float(multinomial.pmf(counts, answers, true)) * math.exp(found.log_won)
    assert total <= 1.0 + 1e-6


@settings(max_examples=60, deadline=None)
@given(SHARES, SHARES, SHARES, st.floats(0.001, 0.3))
def test_no_allowed_distribution_is_likelier_than_the_nearest(
    expected: NDArray[np.float64], seen: NDArray[np.float64], other: NDArray[np.float64], radius: float
) -> None:
    one = Allowed(((0,), (1,), (2,)), expected, radius)
    nearest, rival = Balls([one, one]).nearest(np.array([seen, other]))
    assert (expected * np.log(expected / nearest)).sum() <= radius + 1e-9
    assert (seen * np.log(rival)).sum() <= (seen * np.log(nearest)).sum() + 1e-6


@pytest.mark.parametrize(("size", "index"), [(120, 0.25), (1000, 0.1)])
def test_devices_that_see_what_was_validated_raise_no_alarm_in_a_thousand_windows(size: int, index: float) -> None:
    for seed in range(5):
        random, one = _brightness(seed, size, index)
        windows = [one.counts(beta_counts(random, 30, 9, 20)) for _ in range(200)]
        assert _watched(one, windows)[0] is None


def test_a_shift_that_is_let_pass_raises_no_alarm_however_long_it_lasts() -> None:
    random, one = _brightness(3, 1000)
    windows = [one.counts(beta_counts(random, 500, 9, 18)) for _ in range(200)]
    assert _watched(one, windows)[0] is None


@pytest.mark.parametrize(("shift", "most"), [((20, 9), 1), ((9, 12), 8), ((9, 14), 30)])
def test_a_change_is_found_the_sooner_the_larger_it_is_and_its_beginning_with_it(
    shift: tuple[int, int], most: int
) -> None:
    random, one = _brightness(1)
    before = [one.counts(beta_counts(random, 50, 9, 20)) for _ in range(100)]
    after = [one.counts(beta_counts(random, 50, *shift)) for _ in range(60)]
    place, found = _watched(one, before + after)
    assert place is not None
    assert 100 <= place < 100 + most
    assert abs(found.began_at / 30.0 - 100) <= 16
    assert stability_index(one.expected, found.counts) > 0.25


def test_pictures_of_one_scene_count_as_few_as_they_are() -> None:
    """Twenty windows of 200 pictures, each window of eight scenes: 160 independent ones, not 4,000."""
    random, one = _brightness(5, 1000)
    windows = [25 * one.counts(beta_counts(random, 8, 9, 20)) for _ in range(400)]
    watch = fresh(one)
    for place, counts in enumerate(windows):
        watch = advance(watch, counts, 30.0 * place, 30.0 * (place + 1))
    assert 12 < spread(watch.unlikeness) < 40
    settled = renewed(watch)
    for place, counts in enumerate(windows):
        settled = advance(settled, counts, 30.0 * place, 30.0 * (place + 1))
        assert evidence([settled], [one])[0].log_won < ENOUGH


def test_independent_answers_count_as_many_as_they_are() -> None:
    random, one = _brightness(6)
    watch = fresh(one)
    for place in range(40):
        watch = advance(watch, one.counts(beta_counts(random, 200, 9, 20)), 30.0 * place, 30.0 * (place + 1))
    assert spread(watch.unlikeness) < 1.5


@given(st.lists(st.integers(0, 50), min_size=2, max_size=20), st.booleans())
def test_every_bin_of_a_reference_has_its_group(counts: list[int], ordered: bool) -> None:
    one = allowed(counts, 0.25, ordered=ordered)
    if sum(counts) == 0:
        assert one is None
        return
    assert one is not None
    assert sorted(index for group in one.groups for index in group) == list(range(len(counts)))
    assert one.counts(counts).sum() == sum(counts)
    assert one.expected.sum() == pytest.approx(1.0)


def test_a_class_that_the_reference_never_had_is_a_drift() -> None:
    one = allowed([40, 0, 40], 0.25, ordered=False)
    assert one is not None
    place, _ = _watched(one, [one.counts([0, 50, 0])])
    assert place == 0


def test_fewer_errors_than_allowed_are_no_drift_and_more_are() -> None:
    one = at_most(0.05)
    assert _watched(one, [np.array([100.0, 0.0])] * 50)[0] is None
    assert _watched(one, [np.array([95.0, 5.0])] * 200)[0] is None
    place, _ = _watched(one, [np.array([80.0, 20.0])] * 20)
    assert place is not None
    assert place < 4


def test_only_so_many_moments_are_remembered_and_the_newest_among_them() -> None:
    random, one = _brightness(7)
    watch = fresh(one)
    for place in range(300):
        watch = advance(watch, one.counts(beta_counts(random, 20, 9, 20)), 30.0 * place, 30.0 * (place + 1))
    assert len(watch.times) == MAX_MOMENTS
    assert watch.times[0] == 0.0
    assert watch.times[-2:] == (30.0 * 298, 30.0 * 299)


def test_windows_that_no_device_could_send_change_nothing() -> None:
    _, one = _brightness(8)
    watch = fresh(one)
    for counts in (np.zeros(len(one.groups)), np.full(len(one.groups), -1.0)):
        assert advance(watch, counts, 0.0, 30.0) is watch
    back = advance(watch, np.ones(len(one.groups)), 30.0, 0.0)
    assert evidence([back], [one])[0].log_won == -math.inf
    long = advance(watch, np.ones(len(one.groups)), 0.0, 100 * MONTH_SECONDS)
    assert long.stakes.max() < 0.01


def test_what_is_as_it_should_be_again_is_seen_to_be() -> None:
    random, one = _brightness(9)
    watch = fresh(one)
    for place in range(20):
        watch = advance(watch, one.counts(beta_counts(random, 50, 20, 9)), 30.0 * place, 30.0 * (place + 1))
    assert not is_allowed(watch, one, 200)
    for place in range(20, 30):
        watch = advance(watch, one.counts(beta_counts(random, 50, 9, 20)), 30.0 * place, 30.0 * (place + 1))
    assert is_allowed(watch, one, 200)


@given(st.dictionaries(st.integers(0, 99), st.floats(-20, 20), max_size=30), st.floats(0.001, 1.0))
def test_devices_are_named_by_the_e_bh_procedure(won: dict[int, float], rate: float) -> None:
    named = drifted(won, rate, len(won))
    assert drifted({one: each for one, each in won.items() if each >= least_won(rate)}, rate, len(won)) == named
    assert all(won[one] >= math.log(len(won) / rate) - math.log(len(named)) - 1e-9 for one in named)
    assert {one for one in won if won[one] >= math.log(len(won) / rate)} <= named
    if named:
        assert min(won[one] for one in named) >= max((won[one] for one in won if one not in named), default=-math.inf)


def test_many_devices_that_drift_together_are_named_at_less_evidence_each() -> None:
    alone = {device: (12.0 if device == 0 else -5.0) for device in range(100_000)}
    together = {device: (12.0 if device < 1000 else -5.0) for device in range(100_000)}
    assert drifted(alone, 0.1, 100_000) == set()
    assert drifted(together, 0.1, 100_000) == set(range(1000))


def test_an_agent_that_tells_nothing_of_colours_is_judged_by_the_rest() -> None:
    random = np.random.default_rng(4)
    policy = DriftPolicy(enabled=True)
    seen = watched(policy, reference_of(plausible_counts(random, 2000)))
    for sequence in range(20):
        one = window_of({**plausible_counts(random, 200), "brightness": beta_counts(random, 200, 20, 9)}, sequence)
        told = {name: counts for name, counts in one.inputs.items() if name not in ("chroma", "warmth")}
        seen = after(seen, policy, replace(one, inputs=told))
    won = {name: one.log_won for name, one in seen.evidence().items()}
    assert won["brightness"] > 20
    assert max(won["chroma"], won["warmth"]) <= 0
