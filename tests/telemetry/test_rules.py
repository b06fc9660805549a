"""Drift is found when it is there, and chance is not taken for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milonga.pictures import BINS, INPUT_STATISTICS, statistics
from milonga.pictures import histogram as picture_histogram
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules import (
    add_counts,
    compare,
    drifted,
    latency_percentiles,
    merge_histograms,
    newest_windows,
)
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from sklearn.datasets import load_digits

from tests.telemetry.windows import beta_counts, plausible_counts, reference_of, window, window_of

POLICY = DriftPolicy(enabled=True, min_samples=200, threshold=0.25)
COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=20)


@given(COUNTS)
def test_equal_counts_have_not_moved(counts: list[int]) -> None:
    result = compare(counts, counts)
    assert result.psi == 0.0
    assert result.p_value == pytest.approx(1.0)


@given(st.integers(2, 20).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 500), min_size=n, max_size=n)] * 2)))
def test_any_two_sets_of_counts_compare_to_finite_figures(pair: tuple[list[int], list[int]]) -> None:
    for ordered in (True, False):
        result = compare(*pair, ordered=ordered)
        assert np.isfinite(result.psi)
        assert result.psi >= 0
        assert 0 <= result.p_value <= 1


def test_the_p_value_is_that_of_the_chi_squared_test_of_two_samples() -> None:
    reference, observed = [30, 40, 50, 60], [40, 40, 30, 90]
    assert compare(reference, observed).p_value == pytest.approx(stats.chi2_contingency([reference, observed])[1])


@pytest.mark.parametrize("reference_size", [120, 360, 5000])
def test_samples_of_the_reference_itself_raise_an_alarm_in_less_than_one_of_a_hundred(reference_size: int) -> None:
    random = np.random.default_rng(reference_size)
    alarms = 0
    for _ in range(600):
        reference = reference_of(plausible_counts(random, reference_size))
        alarms += bool(drifted(POLICY, reference, [window_of(plausible_counts(random, 200))]))
    assert alarms < 6


def test_a_low_threshold_does_not_turn_chance_into_alarms() -> None:
    random = np.random.default_rng(5)
    eager = POLICY.model_copy(update={"threshold": 0.01})
    reference = reference_of(plausible_counts(random, 5000))
    alarms = sum(bool(drifted(eager, reference, [window_of(plausible_counts(random, 200))])) for _ in range(600))
    assert alarms < 12  # five tests at p < 0.001 each


def test_the_index_of_small_samples_of_one_distribution_is_near_zero() -> None:
    random = np.random.default_rng(9)
    even = [0.1] * 10
    found = [
        compare(random.multinomial(120, even).tolist(), random.multinomial(200, even).tolist()).psi for _ in range(300)
    ]
    assert float(np.mean(found)) < 0.05  # without its bias of 9 * (1/120 + 1/200) = 0.12


def test_each_signal_is_found_by_itself() -> None:
    random = np.random.default_rng(1)
    base = plausible_counts(random, 2000)
    moved: dict[str, Sequence[int]] = {
        "confidence": beta_counts(random, 200, 3, 2),
        "brightness": beta_counts(random, 200, 20, 9),
        "contrast": beta_counts(random, 200, 12, 30),
        "sharpness": beta_counts(random, 200, 40, 15),
        "classes": [60, 60, 40, 20, 20, 0, 0, 0, 0, 0],
    }
    for name, counts in moved.items():
        seen = {**plausible_counts(random, 200), name: counts}
        assert [signal.name for signal in drifted(POLICY, reference_of(base), [window_of(seen)])] == [name]


def test_too_few_answers_say_nothing() -> None:
    random = np.random.default_rng(1)
    reference = reference_of(plausible_counts(random, 2000))
    seen = {**plausible_counts(random, 199), "brightness": beta_counts(random, 199, 20, 9)}
    assert drifted(POLICY, reference, [window_of(seen)]) == []


def test_a_policy_that_is_off_judges_nothing() -> None:
    random = np.random.default_rng(1)
    reference = reference_of(plausible_counts(random, 2000))
    seen = {**plausible_counts(random, 300), "brightness": beta_counts(random, 300, 20, 9)}
    assert drifted(POLICY.model_copy(update={"enabled": False}), reference, [window_of(seen)]) == []


def test_a_long_good_history_does_not_hide_a_change() -> None:
    random = np.random.default_rng(2)
    reference = reference_of(plausible_counts(random, 1000))
    good = [window_of(plausible_counts(random, 50), i) for i in range(200)]
    bad = [window_of({**plausible_counts(random, 50), "brightness": beta_counts(random, 50, 20, 9)}) for _ in range(4)]
    assert [signal.name for signal in drifted(POLICY, reference, [*bad, *good])] == ["brightness"]


def test_only_as_many_windows_are_judged_as_are_needed() -> None:
    windows = [window(i, request_count=90, error_count=10) for i in range(9)]
    assert len(newest_windows(windows, 200)) == 3
    assert newest_windows(windows, 721) == ()


def test_a_reference_without_a_signal_does_not_judge_it() -> None:
    random = np.random.default_rng(1)
    assert drifted(POLICY, {}, [window_of(plausible_counts(random, 300))]) == []
    assert drifted(POLICY, {"confidence": [1, 2]}, [window_of(plausible_counts(random, 300))]) == []


@given(st.lists(COUNTS, max_size=5))
def test_merging_loses_no_count(many: list[list[int]]) -> None:
    assert sum(add_counts(many)) == sum(sum(counts) for counts in many)


def test_histograms_with_other_edges_are_not_added() -> None:
    merged = merge_histograms([Histogram(low=0, high=1, counts=[1, 2]), Histogram(low=0, high=2, counts=[1, 2])])
    assert merged == Histogram(low=0, high=1, counts=[1, 2])


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_percentiles_of_a_histogram_are_close_to_those_of_the_values(seed: int) -> None:
    milliseconds = np.random.default_rng(seed).lognormal(2.0, 0.5, 2000)
    low, high, _ = BINS["log10_latency_ms"]
    counts = picture_histogram("log10_latency_ms", list(np.log10(milliseconds)))
    result = latency_percentiles(Histogram(low=low, high=high, counts=counts))
    for found, share in ((result.p50, 50), (result.p90, 90), (result.p99, 99)):
        assert found == pytest.approx(float(np.percentile(milliseconds, share)), rel=0.13)  # a bin is 12 % wide
    assert result.count == 2000


def _picture_counts(pictures: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Sequence[int]]:
    seen = [statistics(Image.fromarray(np.clip(p * 255 / 16, 0, 255).astype(np.uint8))) for p in pictures]
    counts: dict[str, Sequence[int]] = {
        name: picture_histogram(name, [s[name] for s in seen]) for name in INPUT_STATISTICS
    }
    return {**counts, "confidence": [0] * 20, "classes": np.bincount(labels, minlength=10).tolist()}


def _answered(counts: dict[str, Sequence[int]], size: int) -> dict[str, Sequence[int]]:
    return {**counts, "confidence": [0] * 19 + [size]}


def test_rotated_and_noisy_digits_are_found_and_other_upright_ones_are_not() -> None:
    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, 8, 8)
    random = np.random.default_rng(3)
    order = random.permutation(len(pictures))
    reference = reference_of(_picture_counts(pictures[order[:400]], labels[order[:400]]))
    fresh = order[400:]
    upright = _answered(_picture_counts(pictures[fresh[:200]], labels[fresh[:200]]), 200)
    assert drifted(POLICY, reference, [window_of(upright)]) == []
    chosen = fresh[200:400]
    turned = ndimage.rotate(pictures[chosen], 35, axes=(1, 2), reshape=False, order=1)
    noisy = np.clip(turned + random.normal(0, 3.0, turned.shape), 0, 16)
    found = drifted(POLICY, reference, [window_of(_answered(_picture_counts(noisy, labels[chosen]), 200))])
    assert {signal.name for signal in found} >= {"brightness"} or {signal.name for signal in found} >= {"sharpness"}
    assert "classes" not in {signal.name for signal in found}
