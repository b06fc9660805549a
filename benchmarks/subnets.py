"""Subnets are usable as they come: accuracy inherited from the supernet against the same networks trained alone."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.spaces import space
from milonga_hub.learning.train import evaluated
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks._digits import SIZE_PX, alone, task, trained
from benchmarks._parallel import together
from benchmarks.results import Result

_COUNT = 12
_SEEDS = (0, 1, 2)
_MOST_LOST = 0.005
_TAU = 0.7
RECIPE = Recipe("resnet", SIZE_PX, epochs=16, batch_size=32, learning_rate=0.2, seed=0)


def run() -> list[Result]:
    """Compare 12 subnets, spread evenly over MACs, over three seeds: both ways see as many samples, by the same code."""
    family = space("resnet", SIZE_PX)
    trainings = [(seed, number) for number in (None, *reversed(range(_COUNT))) for seed in _SEEDS]
    accuracies = dict(zip(trainings, together(_trained, trainings, "training"), strict=True))
    # (seeds, ways, subnets)
    found = np.array([[accuracies[seed, None], [accuracies[seed, one][0] for one in range(_COUNT)]] for seed in _SEEDS])
    inherited, own = found.mean(axis=0)
    gaps = own - inherited
    for one, *row in zip(_spread(), inherited, own, strict=True):
        macs = family.cost(one, 10).macs / 1e6
        print(f"  {macs:6.2f} M MACs: inherited {row[0]:.1%}, alone {row[1]:.1%}   {family.describe(one)}")
    print(f"  gap {gaps.mean() * 100:+.2f} points on average, {gaps.min() * 100:+.2f} to {gaps.max() * 100:+.2f}")
    taus = [_tau(*pairs) for pairs in found]
    print(
        f"  Kendall tau of single seeds: {', '.join(f'{tau:.3f}' for tau in taus)}; of their means, {_tau(inherited, own):.3f}"
    )
    crossed, repeated = across_seeds(found[:, 0], found[:, 1]), across_seeds(found[:, 1], found[:, 1])
    print(
        f"  Kendall tau across seeds: {crossed:.3f} of inherited with alone, {repeated:.3f} of alone with alone, which chance"
        " alone keeps below 1"
    )
    return [
        Result(
            "accuracy alone, over inherited",
            float(own.mean()),
            "",
            "inherited from the supernet",
            float(inherited.mean()),
            1 + _MOST_LOST / float(inherited.mean()),
            float(np.ptp((found[:, 1] - found[:, 0]).mean(axis=1))),
        ),
        Result(
            "Kendall tau wanted, over that of both orders",
            _TAU,
            "",
            "found",
            _tau(inherited, own),
            1.0,
            float(np.ptp(taus)),
        ),
        Result(
            "Kendall tau of alone with alone of another seed, over that of inherited",
            repeated,
            "",
            "inherited with alone of another seed",
            crossed,
            None,
        ),
    ]


def _trained(training: tuple[int, int | None]) -> list[float]:
    """Return the accuracy of one subnet trained alone with this seed, or of all of them as the supernet's (None)."""
    seed, number = training
    family, digits, recipe = space("resnet", SIZE_PX), task(), replace(RECIPE, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        if number is not None:
            return [alone(family, _spread()[number], digits, recipe, Path(name), "it")]
        supernet = trained(family, digits, recipe, Path(name), "it")
        return [evaluated(supernet, one, digits) for one in _spread()]


def across_seeds(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the mean Kendall tau of one way's order in one seed with the other way's in another (seeds, subnets).

    Of a way with itself, it is how well a training tells the order at all: subnets that differ by less than two trainings
    of the same one do come in either order, and nothing can foretell which.
    """
    pairs = permutations(range(len(first)), 2)
    return float(np.mean([_tau(first[one], second[other]) for one, other in pairs]))


def _tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(kendalltau(first, second).statistic)


def _spread() -> list[tuple[int, ...]]:
    """Return subnets at even steps of log MACs, both ends among them."""
    family, source = space("resnet", SIZE_PX), random.Random(0)
    pool = [family.smallest(), family.largest(), *(family.sample(source) for _ in range(200))]
    ordered = sorted(set(pool), key=lambda one: (family.cost(one, 10).macs, one))
    macs = np.log([family.cost(one, 10).macs for one in ordered])
    chosen: list[int] = []
    for wanted in np.linspace(macs[0], macs[-1], _COUNT):
        nearest = np.argsort(np.abs(macs - wanted), kind="stable")
        chosen.append(next(int(index) for index in nearest if index not in chosen))
    return [ordered[index] for index in chosen]
