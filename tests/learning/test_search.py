"""Predictions hold on what they never saw, and the search finds what the predictions say is best."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from milonga_hub.learning.accuracy import AccuracyModel
from milonga_hub.learning.evolve import Choice, Figures, search, thinned
from milonga_hub.learning.latencies import Features, TypeLatency, to_measure
from milonga_hub.learning.spaces import Encoding, space

SPACE = space("resnet", 32)


def _sample(count: int, seed: int = 1) -> list[Encoding]:
    source = random.Random(seed)
    return [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(source) for _ in range(count))]


def _quality(encodings: list[Encoding]) -> np.ndarray:
    return np.array([0.8 + 0.005 * sum(encoding) for encoding in encodings])


def test_the_accuracy_model_ranks_subnets_it_never_saw_and_knows_how_sure_it_is() -> None:
    known, unseen = _sample(40), _sample(150, seed=2)
    model = AccuracyModel(SPACE, 10, known, _quality(known).tolist())
    predicted, deviation = model.predict(unseen)
    assert np.corrcoef(predicted, _quality(unseen))[0, 1] > 0.9
    assert model.kendall_tau > 0.6
    assert deviation[2:].mean() > 1.3 * model.predict(known)[1].mean() > 0
    error = np.abs(predicted - _quality(unseen))
    assert (error < 2 * deviation + 1e-3).mean() > 0.8


def test_noise_has_no_rank() -> None:
    known = _sample(40)
    noise = np.random.default_rng(0).uniform(0.5, 0.6, len(known))
    assert abs(AccuracyModel(SPACE, 10, known, noise.tolist()).kendall_tau) < 0.5


def test_two_evaluations_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        AccuracyModel(SPACE, 10, _sample(0), [0.5, 0.6])


def _ms(encodings: list[Encoding], fixed: float = 0.2) -> np.ndarray:
    costs = Features(SPACE, 10).costs(encodings)
    return fixed + costs[:, 0] * 1e-6 + costs[:, 3] * 0.01


def test_latencies_of_one_precision_and_of_other_types_teach_another() -> None:
    pool, features = _sample(120), Features(SPACE, 10)
    chosen = to_measure(features, pool, 8, {}, seed=0)
    assert len(set(chosen)) == 8
    here = {"fp32": dict(zip(chosen, _ms(chosen), strict=True))}
    here["int8"] = {one: ms / 3 for one, ms in list(here["fp32"].items())[::2]}
    elsewhere = {("other", "fp32"): dict(zip(pool[:40], 5 * _ms(pool[:40]), strict=True))}
    model = TypeLatency(features, pool, here, elsewhere)
    unseen = _sample(40, seed=5)
    for precision, factor in (("fp32", 1.0), ("int8", 3.0)):
        wanted = _ms(unseen) / factor
        exact = model.intervals(unseen, precision)
        assert np.median(np.abs(exact.median_ms / wanted - 1)) < 0.08
        assert np.median(np.abs(model.ms(unseen, precision) / wanted - 1)) < 0.1
        assert (exact.low_ms <= exact.median_ms).all() and (exact.median_ms <= exact.high_ms).all()
    assert model.quality("fp32").trusted
    assert (model.quality("int8").trusted, model.quality("int8").further) == (False, 1)


def _judge(limit_ms: float, gain: float = 1.0) -> Callable[[list[Choice]], Figures]:
    def judge(choices: list[Choice]) -> Figures:
        encodings = [encoding for encoding, _ in choices]
        option = np.array([number for _, number in choices])
        ms = _ms(encodings, 0.0) / np.where(option == 1, gain, 1.0)
        return Figures(_quality(encodings) - 0.002 * option, ms, (ms / limit_ms - 1)[:, None])

    return judge


def test_no_subnet_of_the_front_beats_another_and_all_keep_the_limit() -> None:
    judge = _judge(8.0)
    found = search(SPACE, judge, 1, population=24, generations=12, seed=0)
    figures = judge(found.front)
    assert len(found.front) > 3
    assert (figures.ms <= 8.0).all()
    assert (np.diff(figures.ms) >= 0).all() and (np.diff(figures.accuracy) >= 0).all()
    assert search(SPACE, judge, 1, population=24, generations=12, seed=0) == found


def test_a_precision_that_pays_fills_the_front() -> None:
    found = search(SPACE, _judge(8.0, gain=3.0), 1, population=24, generations=12, seed=0, precisions=2)
    assert np.mean([option for _, option in found.front]) > 0.7


def test_limits_that_nothing_keeps_leave_the_fastest() -> None:
    found = search(SPACE, _judge(1e-9), 1, population=16, generations=4, seed=0)
    assert found.front == []
    assert found.fastest == (SPACE.smallest(), 0)


def test_a_thinned_front_keeps_both_ends() -> None:
    front: list[Choice] = [((number,), 0) for number in range(10)]
    assert thinned(front, 3) == [front[0], front[4], front[9]]
    assert thinned(front, 1) == [front[9]] and thinned(front, 20) == front
