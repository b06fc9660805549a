"""Subnets are usable as they come: accuracy inherited from the supernet against the same networks trained alone."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.spaces import space
from milonga_hub.learning.train import evaluated
from scipy.stats import kendalltau

from benchmarks._digits import SIZE_PX, alone, task, trained
from benchmarks.results import Result

_COUNT = 12
_MOST_LOST = 0.005
_TAU = 0.7
RECIPE = Recipe("resnet", SIZE_PX, epochs=16, batch_size=32, learning_rate=0.2, seed=0)


def run() -> list[Result]:
    """Compare 12 subnets, spread evenly over MACs: both ways see as many samples, by the same recipe and code."""
    family, digits = space("resnet", SIZE_PX), task()
    with tempfile.TemporaryDirectory() as folder:
        supernet = trained(family, digits, RECIPE, Path(folder), "the supernet")
        pairs = []
        for number, one in enumerate(_spread(), 1):
            inherited = evaluated(supernet, one, digits)
            own = alone(family, one, digits, RECIPE, Path(folder), f"subnet {number} of {_COUNT} alone")
            pairs.append((inherited, own))
            macs = family.cost(one, 10).macs / 1e6
            print(f"  {macs:6.2f} M MACs: inherited {inherited:.1%}, alone {own:.1%}   {family.describe(one)}")
    inherited, own = np.array(pairs).T
    gaps, tau = own - inherited, float(kendalltau(inherited, own).statistic)
    print(f"  gap {gaps.mean() * 100:+.2f} points on average, {gaps.min() * 100:+.2f} to {gaps.max() * 100:+.2f}")
    return [
        Result(
            "accuracy alone, over inherited",
            float(own.mean()),
            "",
            "inherited from the supernet",
            float(inherited.mean()),
            1 + _MOST_LOST / float(inherited.mean()),
            float(gaps.std()),
        ),
        Result("Kendall tau wanted, over that of both orders", _TAU, "", "found", tau, 1.0),
    ]


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
