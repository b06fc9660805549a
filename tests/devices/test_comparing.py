"""Which of some models is the fastest: on devices whose load comes and goes, by a clock of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from statistics import median

import pytest
from milonga_hub.devices.rules_comparing import Round, next_round, standing
from milonga_hub.ties import TIE

# What a model takes at a time in seconds, in times of what it takes at rest.
Load = Callable[[float], float]
_MODELS = {"a": 10.0, "b": 11.5, "c": 13.0, "d": 18.0, "e": 40.0}
_LOADING, _FIRST, _BRIEF = 2.0, 10.0, 2.0
_MOST_ROUNDS = 15


def _round(models: Mapping[str, float], load: Load, source: random.Random, begun: float, seconds: float) -> Round:
    """Return the medians of some repeats of each, one after the other."""
    found, now = {}, begun
    for name in source.sample(sorted(models), len(models)):
        now += _LOADING
        found[name] = models[name] * median(
            load(now + seconds * part / 20) * source.gauss(1, 0.01) for part in range(20)
        )
        now += seconds
    return found


def _compared(load: Load, seed: int, models: Mapping[str, float] = _MODELS) -> list[Round]:
    source = random.Random(seed)
    rounds = [_round(models, load, source, 0.0, _FIRST)]
    while (going := next_round(rounds)) and len(rounds) < _MOST_ROUNDS:
        some = {name: models[name] for name in going}
        rounds.append(_round(some, load, source, 100.0 * len(rounds), _BRIEF))
    return rounds


def _lost(fastest: str) -> float:
    return _MODELS[fastest] / min(_MODELS.values()) - 1


def _core_that_goes(seed: int) -> Load:
    """Return a load of 1, or of 1.5 for phases of some seconds to a minute: a second core that is taken away."""
    source, ends, now = random.Random(seed), [], 0.0
    while now < 3000.0:
        now += source.expovariate(1 / 20.0)
        ends.append(now)
    return lambda at: 1.5 if sum(end <= at for end in ends) % 3 == 0 else 1.0


def _heating(seed: int) -> Load:
    """Return a load that doubles in two minutes, and stays there."""
    return lambda at: 1.0 + min(at, 120.0) / 120.0


@pytest.mark.parametrize("load", [_core_that_goes, _heating])
def test_load_that_changes_between_measurements_does_not_make_a_slow_model_the_fastest(
    load: Callable[[int], Load],
) -> None:
    once, in_turn = [], []
    for seed in range(40):
        rounds = _compared(load(seed), seed)
        once.append(_lost(min(rounds[0], key=lambda name: rounds[0][name])))
        in_turn.append(_lost(standing(rounds).fastest))
    assert sum(lost > 0.1 for lost in once) >= 4
    assert sum(lost > 0.1 for lost in in_turn) <= 1 and sum(in_turn) < sum(once) / 4


def test_three_rounds_are_enough_on_a_device_at_rest() -> None:
    rounds = _compared(lambda at: 1.0, 7)
    assert len(rounds) == 3 and standing(rounds).fastest == "a"
    assert set(rounds[0]) == set(_MODELS) and set(rounds[1]) == {"a", "b", "c", "d"}
    ratio = standing(rounds).ratios["b"]
    assert ratio.low < 1.15 < ratio.high < 1.25


def test_models_that_are_a_tie_apart_are_not_measured_for_ever() -> None:
    rounds = _compared(lambda at: 1.0, 3, {"a": 10.0, "b": 10.0, "c": 10.05})
    ratios = standing(rounds).ratios
    assert len(rounds) < _MOST_ROUNDS and all(abs(ratio.value - 1) < TIE for ratio in ratios.values())


def test_models_that_are_alike_on_a_restless_device_are_let_go_once_little_can_be_gained_by_more() -> None:
    counts = []
    for seed in range(20):
        source, rounds = random.Random(seed), list[Round]()
        going: tuple[str, ...] = ("a", "b", "c")
        while going and len(rounds) < 50:
            rounds.append({name: 10.0 * source.lognormvariate(0, 0.05) for name in going})
            going = next_round(rounds)
        counts.append(len(rounds))
    # Telling that none is faster by more than a tie takes thirty rounds and more, and gains nothing.
    assert sum(counts) / len(counts) < 15 and max(counts) < 40


def test_one_model_and_one_that_is_far_ahead_need_no_second_round() -> None:
    assert next_round([{"a": 3.0}]) == () and standing([{"a": 3.0}]).ms == 3.0
    assert next_round([{"a": 3.0, "b": 6.1}]) == ()
    assert next_round([{"a": 3.0, "b": 5.9}]) == ("a", "b")


def test_what_failed_is_not_asked_for_again_and_nothing_is_where_the_fastest_did() -> None:
    rounds = [{"a": 3.0, "b": 4.0, "c": 5.0}]
    assert next_round(rounds, {"b"}) == ("a", "c")
    assert next_round(rounds, {"a"}) == ()


def test_times_of_two_devices_are_never_held_against_each_other_where_one_has_both() -> None:
    slow, quick = {"a": 30.0, "b": 33.0}, {"b": 11.0, "c": 12.0}
    now = standing([slow, quick, {"a": 10.0, "c": 12.0}])
    assert now.fastest == "a" and now.ratios["b"].value == pytest.approx(1.1)
    assert now.ratios["c"].value == pytest.approx(1.2)


def test_a_burst_that_falls_on_one_of_many_rounds_changes_no_figure() -> None:
    calm = [{"a": 10.0 + 0.01 * number, "b": 11.0} for number in range(8)]
    now = standing([*calm, {"a": 30.0, "b": 11.0}])
    assert now.fastest == "a" and now.ratios["b"].value == pytest.approx(1.1, abs=0.01)
    assert 1.05 < now.ratios["b"].low < now.ratios["b"].high < 1.11
