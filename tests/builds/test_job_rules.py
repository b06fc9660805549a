"""Which build a device gets, and when a new version is better."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.builds.rules import (
    Allowed,
    BuildFigures,
    Group,
    chance_of_heads,
    chance_of_so_many,
    choose_build,
    decisions,
    forgotten,
    judge,
)
from milonga_hub.ties import TIE
from scipy.stats import binomtest, fisher_exact

figures = st.builds(
    BuildFigures,
    name=st.text("abc", min_size=1, max_size=3),
    engine=st.just("onnxruntime"),
    precision=st.sampled_from(["fp32", "int8"]),
    accuracy=st.floats(0, 1),
    measured_ms=st.none() | st.floats(0.01, 100),
    model_bytes=st.integers(1, 10**7),
    size_bytes=st.integers(1, 10**7),
    memory_bytes=st.none() | st.integers(1, 10**7),
)


@given(
    st.lists(figures, max_size=6, unique_by=lambda build: build.name),
    st.builds(
        Allowed,
        latency_ms=st.none() | st.floats(0.01, 100),
        model_bytes=st.none() | st.integers(1, 10**7),
        memory_bytes=st.none() | st.integers(1, 10**7),
    ),
)
def test_the_chosen_build_keeps_the_limits_and_none_is_faster(builds: list[BuildFigures], allowed: Allowed) -> None:
    chosen = choose_build(builds, allowed)
    most_ms, most_bytes, most_memory = (math.inf if limit is None else limit for limit in astuple(allowed))
    within = [b for b in builds if b.measured_ms is not None and b.measured_ms <= most_ms]
    within = [
        b for b in within if b.model_bytes <= most_bytes and (b.memory_bytes is None or b.memory_bytes <= most_memory)
    ]
    if chosen is None:
        assert not within
    else:
        assert chosen in within
        least = min(build.measured_ms for build in within if build.measured_ms is not None)
        assert chosen.measured_ms is not None and chosen.measured_ms <= least * (1 + TIE)
    assert choose_build(builds[::-1], allowed) == chosen


def test_int8_that_is_slower_on_the_device_is_not_chosen_for_its_name() -> None:
    fp32 = BuildFigures("fp32", "onnxruntime", "fp32", 0.960, 2.0, 390, 400)
    int8 = BuildFigures("int8", "onnxruntime", "int8", 0.965, 3.2, 90, 100)
    assert choose_build([int8, fp32]) == fp32


def test_how_much_slower_a_build_is_stays_easy_to_read() -> None:
    fast, near, far = (
        BuildFigures(name, "tvm", "fp32", 0.96, ms, 90, 100) for name, ms in (("a", 0.05), ("b", 0.06), ("c", 60.0))
    )
    told = decisions([fast, near, far], fast)
    assert [told[name] for name in "bc"] == ["20.0% slower than tvm/fp32", "1,200 times as slow as tvm/fp32"]


def test_a_build_that_is_faster_but_too_large_is_not_chosen() -> None:
    fp32 = BuildFigures("fp32", "onnxruntime", "fp32", 0.960, 2.0, 390, 400)
    fp16 = BuildFigures("fp16", "onnxruntime", "fp16", 0.960, 2.1, 195, 400)
    assert choose_build([fp32, fp16], Allowed(model_bytes=200)) == fp16
    assert choose_build([fp32, fp16], Allowed(model_bytes=100)) is None


def test_of_equally_fast_builds_the_more_accurate_wins_and_then_the_smaller() -> None:
    worse = BuildFigures("a", "onnxruntime", "int8", 0.95, 2.0, 90, 100)
    large = BuildFigures("b", "onnxruntime", "fp32", 0.96, 2.0, 390, 400)
    small = BuildFigures("c", "onnxruntime", "fp32", 0.96, 2.0, 290, 300)
    assert choose_build([worse, large]) == large
    assert choose_build([large, small]) == small
    faster = BuildFigures("d", "onnxruntime", "fp32", 0.96, 1.97, 390, 400)
    assert choose_build([faster, small]) == small
    assert decisions([faster, small], small)["d"] == "as fast as onnxruntime/fp32, which is smaller"
    much_faster = BuildFigures("e", "onnxruntime", "fp32", 0.96, 1.9, 390, 400)
    assert choose_build([much_faster, small]) == much_faster


def _group(name: str, count: int, champion_right: int, gained: int, lost: int) -> Group:
    """Return pictures that are right or wrong."""
    right = champion_right + gained - lost
    return Group(name, count, champion_right / count, right / count, gained, lost)


def _old(gained: int, lost: int, count: int = 200) -> Group:
    return _group("old", count, count // 2, gained, lost)


NEW = _group("new", 100, 40, gained=42, lost=2)


def test_the_reason_is_in_words_and_figures() -> None:
    verdict = judge([_old(212, 9, count=1000)], champion="v1", challenger="v2")
    assert verdict.better and verdict.p_value < 1e-30
    assert "v2 answers 212 pictures better than v1, and 9 worse" in verdict.reason
    assert "accuracy 50.0% to 70.3%" in verdict.reason


def test_p_values_are_those_of_the_exact_mcnemar_test() -> None:
    # 2 * P(X <= 1 | 10, 1/2) = 2 * 11 / 1024, by hand.
    assert judge([_old(9, 1)]).p_value == pytest.approx(22 / 1024)
    assert judge([_old(0, 0)]).p_value == 1.0


@given(st.integers(0, 300), st.integers(0, 300))
def test_chance_is_scipys_exact_test(heads: int, tails: int) -> None:
    tosses = heads + tails
    scipys = binomtest(heads, tosses, 0.5, alternative="greater").pvalue if tosses else 1.0
    assert chance_of_heads(heads, tosses) == pytest.approx(scipys, rel=1e-9)
    assert judge([_old(heads, tails, 1000)]).p_value == pytest.approx(
        binomtest(heads, tosses).pvalue if tosses else 1.0
    )


def test_better_means_more_right_than_chance_explains() -> None:
    assert judge([_old(5, 5), NEW]).better
    assert not judge([_old(3, 1)]).better
    assert not judge([_old(3, 3), _group("new", 20, 15, gained=3, lost=1)]).better


def test_a_loss_on_old_pictures_that_chance_explains_does_not_outweigh_a_gain() -> None:
    # Four of 200 lost and one gained is 1.5 points: p = 0.19.
    assert judge([_old(1, 4), NEW]).better


def test_what_is_clearly_forgotten_is_named_and_not_outweighed() -> None:
    verdict = judge([_old(1, 11), NEW])
    assert not verdict.better and "5.0 points on old pictures, 1 allowed" in verdict.reason


def test_few_pictures_excuse_no_large_loss() -> None:
    # 2 of 20 lost: p = 0.25, and 10 points.
    assert not judge([_old(0, 2, count=20), NEW]).better


def test_a_loss_of_one_point_is_allowed_however_clear() -> None:
    assert judge([_old(0, 10, count=1000), NEW]).better


def test_where_accuracy_is_no_mean_over_pictures_those_drawn_again_decide() -> None:
    group = Group("old", 100, champion_accuracy=0.50, challenger_accuracy=0.52, gained=5, lost=40)
    surely = judge([group], measure="mAP50-95", gains=np.linspace(0.001, 0.041, 500))
    assert surely.better and surely.p_value == pytest.approx(2 / 501)
    assert "mAP50-95 50.0% to 52.0% (+0.2 to +4.0 points in 95 of 100 draws, p = 0.004)" in surely.reason
    # A twentieth of the draws says the opposite: of both sides, a tenth.
    assert not judge([group], gains=np.linspace(-0.0021, 0.0379, 500)).better
    worse = judge([replace(group, gained=40, lost=5)], gains=np.linspace(-0.041, -0.001, 500))
    assert not worse.better and worse.p_value == pytest.approx(2 / 501)
    assert judge([group], gains=np.zeros(500)).p_value == 1.0


def test_a_loss_on_old_pictures_is_named_however_it_was_judged() -> None:
    group = Group("old", 100, champion_accuracy=0.500, challenger_accuracy=0.485, gained=0, lost=0)
    assert "1.5 points on old pictures" in judge([group], gains=np.full(500, 0.01)).reason


@given(st.integers(1, 500), st.integers(0, 200), st.integers(0, 200))
def test_a_version_that_is_worse_on_the_only_group_is_never_better(spare: int, gained: int, lost: int) -> None:
    assert judge([_old(gained, lost, spare + 2 * (gained + lost))]).better <= (gained > lost)


@given(st.integers(0, 200), st.integers(0, 200))
def test_champion_and_challenger_are_never_both_better(gained: int, lost: int) -> None:
    one, other = judge([_old(gained, lost, 1000)]), judge([_old(lost, gained, 1000)])
    assert not (one.better and other.better)
    assert one.p_value == pytest.approx(other.p_value)


def test_a_class_that_is_forgotten_holds_a_better_version_back() -> None:
    classes = [_group("3", 60, 55, gained=0, lost=12), _group("4", 60, 30, gained=25, lost=0)]
    verdict = judge([_old(40, 5), NEW], classes=classes)
    assert not verdict.better
    assert "20.0 points on 3, 5 allowed for a class" in verdict.reason
    assert judge([_old(40, 5), NEW], classes=classes, max_class_loss_points=25).better


def test_a_few_pictures_of_one_class_of_many_are_no_loss() -> None:
    classes = [_group(str(number), 20, 15, gained=1, lost=4 if number == 7 else 1) for number in range(50)]
    assert judge([_old(40, 5), NEW], classes=classes).better


def test_a_class_of_few_pictures_that_loses_them_all_is_forgotten_however_many_classes_there_are() -> None:
    # A coin falls five times alike once in 32 times, which among 200 classes is nothing; but nowhere else are more than a tenth lost.
    classes = [_group(str(number), 5, 5, gained=0, lost=5 if number == 7 else number % 2) for number in range(200)]
    verdict = judge([_old(40, 5), NEW], classes=classes)
    assert not verdict.better and "100.0 points on 7, 5 allowed for a class" in verdict.reason


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_the_chance_of_so_many_is_scipys_exact_test(marked: int, others: int, rest_marked: int, rest: int) -> None:
    drawn, all_marked = marked + others, marked + rest_marked
    count = drawn + rest_marked + rest
    scipys = fisher_exact([[marked, others], [rest_marked, rest]], alternative="greater").pvalue
    assert chance_of_so_many(marked, drawn, all_marked, count) == pytest.approx(scipys, rel=1e-6)


def test_without_a_difference_between_versions_a_class_is_seldom_called_forgotten() -> None:
    source, called = np.random.default_rng(1), 0
    for _ in range(300):
        changes = source.multinomial(10, [0.05, 0.05, 0.9], size=100)
        classes = [_group(str(place), 10, 5, int(gained), int(lost)) for place, (gained, lost, _) in enumerate(changes)]
        called += bool(forgotten(classes, 5.0))
    # One in twenty at most: fifteen, and three standard deviations.
    assert called <= 27


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8), st.floats(0, 50), st.floats(0, 50))
def test_the_more_a_class_may_lose_the_fewer_are_forgotten(
    changes: list[tuple[int, int]], allowed: float, more: float
) -> None:
    classes = [_group(str(place), 100, 50, gained, lost) for place, (gained, lost) in enumerate(changes)]
    fewer, found = forgotten(classes, allowed + more), forgotten(classes, allowed)
    assert {one.name for one in fewer} <= {one.name for one in found}
    assert all(one.lost > one.gained for one in found)
