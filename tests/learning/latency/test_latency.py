"""The latency model on devices whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from milonga_hub.learning.latency import LatencyModel, Prediction, choose, fit
from milonga_hub.learning.latency.evaluate import MixPeer, Networks, Split, agreement, gain_on_macs, others, trials
from milonga_hub.learning.latency.process import Draws, Floats, Indices
from milonga_hub.learning.latency.structure import Structure
from milonga_hub.learning.latency.surrogate import Surrogates

from tests.learning.latency.worlds import World, stages, unmeasured, world

K = 10


def _fitted(made: World, **changed: Any) -> tuple[Indices, LatencyModel]:
    known: dict[str, Any] = {
        "features": made.features,
        "source_ms": made.sources,
        "macs": made.macs,
        "families": made.families,
    }
    known |= changed
    features, sources = known.pop("features"), known.pop("source_ms")
    index = choose(features, sources, K, **known)
    return index, fit(features, sources, index, made.target[index], **known)


def _rank(made: World, index: Indices, found: Prediction) -> float:
    rest = unmeasured(made, index)
    return agreement(found.median_ms[rest], made.target[rest])[0]


@pytest.fixture(scope="module")
def made() -> World:
    return world()


@pytest.fixture(scope="module")
def known(made: World) -> tuple[Indices, LatencyModel]:
    return _fitted(made)


def test_ten_measurements_and_other_devices_beat_macs_with_a_gain(
    made: World, known: tuple[Indices, LatencyModel]
) -> None:
    index, model = known
    rest = unmeasured(made, index)
    rank, within = agreement(model.predict(rest).median_ms, made.target[rest])
    peer = agreement(gain_on_macs(made.macs, index, made.target[index])[rest], made.target[rest])
    assert rank > 0.97
    assert within > 0.95
    assert rank > peer[0]
    assert within > peer[1] + 0.2


def test_the_interval_holds_about_80_percent_of_the_networks() -> None:
    shares = []
    for seed in range(8):
        made = world(networks=300, noise=0.06, seed=seed)
        index, model = _fitted(made)
        rest = unmeasured(made, index)
        found = model.predict(rest)
        shares.append(np.mean((made.target[rest] >= found.low_ms) & (made.target[rest] <= found.high_ms)))
    assert 0.7 < np.mean(shares) < 0.92


def test_the_median_lies_inside_its_interval_and_a_row_is_predicted_alike_alone(
    known: tuple[Indices, LatencyModel],
) -> None:
    whole = known[1].predict()
    assert np.all((whole.low_ms < whole.median_ms) & (whole.median_ms < whole.high_ms))
    np.testing.assert_allclose(known[1].predict([7, 3]).median_ms, whole.median_ms[[7, 3]])
    assert known[1].predict([]).median_ms.shape == (0,)


def test_chosen_networks_are_distinct_candidates_and_the_same_for_a_seed(made: World) -> None:
    candidates = np.arange(50, 250, 3)
    first, again, other = (
        choose(made.features, made.sources, 15, macs=made.macs, candidates=candidates, seed=seed) for seed in (4, 4, 5)
    )
    assert len(set(first.tolist())) == 15
    assert set(first.tolist()) <= set(candidates.tolist())
    np.testing.assert_array_equal(first, again)
    assert first.shape == other.shape


def test_every_candidate_is_chosen_where_as_many_are_wanted(made: World) -> None:
    assert sorted(choose(made.features, made.sources, 4, candidates=[9, 2, 5, 7])) == [2, 5, 7, 9]


def test_chosen_networks_teach_more_than_chance(made: World) -> None:
    index, model = _fitted(made)
    errors = []
    for seed in range(6):
        drawn = np.random.default_rng(seed).choice(len(made.target), K, replace=False)
        found = fit(made.features, made.sources, drawn, made.target[drawn], macs=made.macs, families=made.families)
        errors.append(_error(made, drawn, found))
    assert _error(made, index, model) < np.mean(errors)


def _error(made: World, index: Indices, model: LatencyModel) -> float:
    rest = unmeasured(made, index)
    return float(np.mean(np.abs(np.log(model.predict(rest).median_ms / made.target[rest]))))


def test_a_noisy_device_is_not_trusted_and_more_is_to_be_measured(made: World) -> None:
    noisy = made.target * np.exp(np.random.default_rng(0).normal(0.0, 1.0, len(made.target)))
    index = choose(made.features, made.sources, K, macs=made.macs)
    quality = fit(made.features, made.sources, index, noisy[index], macs=made.macs).quality
    assert (quality.trusted, quality.further) == (False, 5)
    assert quality.held_out_relative_error > 0.2


def test_measurements_of_a_device_that_was_hot_meanwhile_count_for_little() -> None:
    errors = []
    for seed in range(4):
        made = world(networks=300, noise=0.04, seed=seed)
        index = choose(made.features, made.sources, K, macs=made.macs, families=made.families, seed=seed)
        for hot in ([], [1], [4, 8]):
            ms = made.target[index]
            ms[hot] *= 2.0
            model = fit(made.features, made.sources, index, ms, macs=made.macs, families=made.families)
            errors.append((len(hot), _error(made, index, model)))
    usual, once, twice = (np.mean([error for hot, error in errors if hot == count]) for count in range(3))
    assert once < 1.4 * usual
    assert twice < 2.5 * usual


def test_what_a_model_asks_for_next_was_never_measured_and_is_the_same_every_time(
    made: World, known: tuple[Indices, LatencyModel]
) -> None:
    index, model = known
    further = model.further(5, np.arange(len(made.target)))
    assert len(set(further.tolist())) == 5 and not set(further.tolist()) & set(index.tolist())
    np.testing.assert_array_equal(further, model.further(5, np.arange(len(made.target))))
    rest = unmeasured(made, index)[:2]
    assert sorted(model.further(5, [*index, *rest])) == sorted(rest)


def test_what_a_model_asks_for_next_teaches_more_than_chance() -> None:
    asked, drawn = [], []
    for seed in range(4):
        made = world(networks=300, seed=seed)
        first = choose(made.features, made.sources, 4, macs=made.macs, families=made.families)
        model = fit(made.features, made.sources, first, made.target[first], macs=made.macs, families=made.families)
        asked.append(_error_after(made, first, model.further(4, np.arange(300))))
        for draw in range(3):
            some = np.random.default_rng(draw).choice(unmeasured(made, first), 4, replace=False)
            drawn.append(_error_after(made, first, some))
    assert np.mean(asked) < 0.95 * np.mean(drawn)


def _error_after(made: World, index: Indices, further: Indices) -> float:
    whole = np.concatenate([index, further])
    found = fit(made.features, made.sources, whole, made.target[whole], macs=made.macs, families=made.families)
    return _error(made, whole, found)


def test_a_quiet_device_is_trusted_and_nothing_more_is_to_be_measured(known: tuple[Indices, LatencyModel]) -> None:
    quality = known[1].quality
    assert (quality.trusted, quality.further, quality.count) == (True, 0, K)
    assert quality.held_out_relative_error < 0.1


def test_too_few_measurements_are_predicted_from_but_not_trusted(made: World) -> None:
    quality = fit(made.features, made.sources, [1, 2, 3], made.target[:3]).quality
    assert (quality.trusted, quality.further) == (False, 2)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_units_do_not_matter(made: World, known: tuple[Indices, LatencyModel], unit: float) -> None:
    index, model = known
    # Off by little from whole milliseconds, so that the clock is not taken to be coarse.
    sources = {name: ms * unit for name, ms in made.sources.items()}
    other = fit(made.features, sources, index, made.target[index] * unit, macs=made.macs / 1e6, families=made.families)
    np.testing.assert_allclose(other.predict().median_ms / unit, model.predict().median_ms, rtol=1e-3)


def test_the_order_of_devices_and_measurements_hardly_matters(made: World, known: tuple[Indices, LatencyModel]) -> None:
    index, model = known
    sources = dict(reversed(made.sources.items()))
    turned = index[::-1]
    other = fit(made.features, sources, turned, made.target[turned], macs=made.macs, families=made.families)
    np.testing.assert_allclose(other.predict().median_ms, model.predict().median_ms, rtol=0.02)


def test_choices_may_be_numbers_or_one_hot_columns(made: World) -> None:
    index, model = _fitted(made, features=made.onehot())
    assert _rank(made, index, model.predict()) > 0.96
    np.testing.assert_allclose(
        Structure.of(made.onehot(), made.macs).slots, Structure.of(made.features, made.macs).slots
    )


def test_sources_that_measured_other_networks_help(made: World) -> None:
    random = np.random.default_rng(3)
    partly = {name: np.where(random.uniform(size=len(ms)) < 0.5, np.nan, ms) for name, ms in made.sources.items()}
    partly["device0"] = np.where(np.arange(len(made.target)) < 2, made.sources["device0"], np.nan)
    index, model = _fitted(made, source_ms=partly)
    assert _rank(made, index, model.predict()) > 0.95


@pytest.mark.parametrize("macs", [True, False])
@pytest.mark.parametrize("sources", ["none", "unmeasured"])
def test_without_other_devices_structure_and_macs_are_what_is_left(made: World, sources: str, macs: bool) -> None:
    empty = {} if sources == "none" else {"idle": np.full(len(made.target), np.nan)}
    index, model = _fitted(made, source_ms=empty, macs=made.macs if macs else None, families=None)
    assert len(set(index.tolist())) == K
    assert _rank(made, index, model.predict()) > (0.8 if macs else 0.3)


def test_networks_that_do_not_differ_get_one_latency(made: World) -> None:
    same = np.ones((30, 4))
    index = choose(same, {}, 5)
    found = fit(same, {}, index, np.array([9.0, 10.0, 11.0, 10.5, 9.5])).predict()
    np.testing.assert_allclose(found.median_ms, 10.0, rtol=0.05)
    assert np.all(found.high_ms > 10.0)


def test_a_device_that_runs_some_stages_worse_than_all_others_is_known_by_ten_networks() -> None:
    errors = []
    for seed in range(6):
        made = stages(seed=seed)
        index, model = _fitted(made, macs=None)
        errors.append(_error(made, index, model))
    assert np.median(errors) < 0.06


def test_a_device_unlike_all_others_is_predicted_no_worse_than_by_macs(made: World) -> None:
    random = np.random.default_rng(1)
    unlike = {f"odd{number}": random.uniform(1.0, 30.0, len(made.target)) for number in range(4)}
    index, model = _fitted(made, source_ms=unlike, families=None)
    peer = gain_on_macs(made.macs, index, made.target[index])
    rest = unmeasured(made, index)
    assert _rank(made, index, model.predict()) > agreement(peer[rest], made.target[rest])[0] - 0.02


def _changed(made: World, **other: Any) -> dict[str, Any]:
    return {
        "features": made.features, "source_ms": made.sources, "target_index": [0, 1, 2], "target_ms": [1.0, 2.0, 3.0],
        "macs": made.macs, **other,
    }  # fmt: skip


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "features of one dimension": ({"features": np.ones(5)}, "features have shape"),
    "features that are not finite": ({"features": np.full((400, 2), np.nan)}, "not finite"),
    "a source of another length": ({"source_ms": {"tpu": np.ones(7)}}, "source 'tpu' has shape"),
    "a source of 0 ms": ({"source_ms": {"tpu": np.zeros(400)}}, "above 0 ms"),
    "a source of infinite ms": ({"source_ms": {"tpu": np.full(400, np.inf)}}, "finite and above"),
    "macs of another length": ({"macs": np.arange(1.0, 8.0)}, "macs must be"),
    "macs of 0": ({"macs": np.arange(400.0)}, "macs must be"),
    "more rows than latencies": ({"target_index": [0, 1, 2, 3]}, "must be equal"),
    "rows that do not exist": ({"target_index": [0, 1, 400]}, "outside the 400"),
    "two measurements": ({"target_index": [0, 1], "target_ms": [1.0, 2.0]}, "too few"),
    "a latency of 0": ({"target_ms": [1.0, 0.0, 3.0]}, "above 0 ms"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_words(made: World, case: str) -> None:
    changed, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        fit(**_changed(made, **changed))


def test_more_networks_than_candidates_cannot_be_chosen(made: World) -> None:
    with pytest.raises(ValueError, match="cannot choose 5 of 3"):
        choose(made.features, made.sources, 5, candidates=[1, 2, 3])
    with pytest.raises(ValueError, match="outside the 400"):
        choose(made.features, made.sources, 2, candidates=[1, 2, 400])


def _networks(made: World) -> Networks:
    return Networks(made.features, {"new": made.target, **made.sources}, made.macs, made.families)


def test_trials_leave_out_the_family_and_never_see_test_networks(made: World) -> None:
    networks = _networks(made)
    assert others(networks, "device1") == ["new", *(f"device{number}" for number in range(2, 6))]
    train, test = np.arange(250), np.arange(250, 400)
    split = Split("new", others(networks, "new"), train, test)
    spoiled = {name: ms.copy() for name, ms in networks.latency_ms.items()}
    for name in split.sources:
        spoiled[name][test] = 1.0
    scores = [
        [(k, one.spearman, one.within) for k, one in trials(each, split, (10,), (0, 1))]
        for each in (networks, Networks(made.features, spoiled, made.macs, made.families))
    ]
    assert scores[0] == scores[1]
    assert [k for k, *_ in scores[0]] == [10, 10]
    assert all(spearman > 0.95 for _, spearman, _ in scores[0])


def test_the_mix_of_sources_finds_a_device_that_is_one(made: World) -> None:
    first, second = list(made.sources.values())[:2]
    networks = Networks(made.features, {"new": 2 * first + second, **made.sources}, made.macs)
    split = Split("new", list(made.sources), np.arange(300), np.arange(300, 400))
    rank, within = MixPeer(networks, split).agreement(20, 0)
    assert rank > 0.97
    assert within > 0.85


def test_a_clock_of_whole_milliseconds_is_allowed_for(made: World) -> None:
    coarse: Floats = np.maximum(np.round(made.target / made.target.min() * 3.0), 1.0)
    index = choose(made.features, made.sources, 20, macs=made.macs)
    model = fit(made.features, made.sources, index, coarse[index], macs=made.macs, families=made.families)
    assert _rank(World(made.features, made.macs, {}, {}, coarse), index, model.predict()) > 0.9


def test_how_sources_differ_says_how_a_new_device_may() -> None:
    random = np.random.default_rng(5)
    features = random.integers(0, 4, (400, 8)).astype(np.float64)
    chosen = (features[:, :, None] == np.arange(4)).reshape(400, -1)
    shared, apart = chosen @ random.uniform(0.0, 1.0, 32), chosen @ random.normal(0.0, 0.6, 32)
    devices = {name: 8.0 + shared + part * apart for name, part in zip("abcd", (-1.0, 0.5, -0.3, 1.0), strict=True)}
    unlike = World(features, shared + 1.0, devices, {}, 8.0 + shared - 1.8 * apart)
    index, model = _fitted(unlike, macs=None, families=None)
    assert _rank(unlike, index, model.predict()) > 0.98


def test_where_one_kind_of_device_is_known_another_is_believed_to_differ_less_slot_by_slot() -> None:
    alone, among = (Draws.first("log", ("mean", "gains", "mixes", "values"), kinds).weights for kinds in (1, 2))
    assert (alone[:, 1:] < among[:, 1:]).all()
    assert (alone[:, 0] == among[:, 0]).all()


def test_networks_that_are_alike_are_still_chosen_once_each(made: World) -> None:
    twins = np.tile(made.features[:8], (4, 1))
    sources = {name: np.tile(ms[:8], 4) for name, ms in made.sources.items()}
    assert len(set(choose(twins, sources, 30).tolist())) == 30


def test_networks_that_do_nothing_on_a_source_do_not_spoil_what_it_says_of_others(made: World) -> None:
    spoiled = made.sources["device0"].copy()
    spoiled[::40] *= 1e-4
    found = Surrogates(Structure.of(made.features, made.macs), {"clean": made.sources["device0"], "spoiled": spoiled})
    apart = np.abs(np.diff(found.smooth, axis=1))[np.arange(len(spoiled)) % 40 > 0]
    assert np.mean(apart) < 0.12
