"""One training serves many device types: time for N types against N trainings of one network each.

By the clock on the wall, and in CPU time, which other work on the machine hardly changes. MILONGA_BENCH_EFFORT=0.2 trains for a fifth as
long, all of them: what searches take then weighs more.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from milonga_compiler.files import write_atomically
from milonga_hub.learning.accuracies import Accuracies
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.latencies import Features, pool, to_measure
from milonga_hub.learning.spaces import Encoding, space
from milonga_hub.learning.type_search import TypeSearch

from benchmarks._digits import SIZE_PX, alone, task, told, trained
from benchmarks.results import Result
from benchmarks.subnets import RECIPE as WHOLE

RECIPE = replace(WHOLE, epochs=max(1, round(WHOLE.epochs * float(os.environ.get("MILONGA_BENCH_EFFORT", "1")))))
_TYPES = (1, 2, 4, 8)
_MEASURED = 10
_EVALUATED = 16
_SPEC = {"seed": 0, "population": 32, "generations": 15, "verified_candidates": 3}


def run() -> list[Result]:
    """Time a supernet and 8 searches, and 8 trainings of networks that such searches find, by the same recipe."""
    family, digits = space("resnet", SIZE_PX), task()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = _clocks()
        supernet = trained(family, digits, RECIPE, folder, "the supernet")
        evaluated = Evaluated(supernet, digits, folder, write_atomically)
        source = random.Random(0)
        for one in (family.smallest(), family.largest(), *(family.sample(source) for _ in range(_EVALUATED - 2))):
            evaluated.accuracy(one)
        once = _clocks() - started
        features, searches, chosen = Features(family, 10), [], []
        for number in told(range(_TYPES[-1]), "searching for type", _TYPES[-1]):
            started = _clocks()
            chosen.append(_search(number, evaluated, features))
            searches.append(_clocks() - started)
        trainings = []
        for number, one in enumerate(chosen, 1):
            started = _clocks()
            alone(family, one, digits, RECIPE, folder, f"network {number} of {len(chosen)} alone")
            trainings.append(_clocks() - started)
    ours = once + np.cumsum(searches, axis=0)
    apart = np.cumsum(trainings, axis=0)
    print(
        f"  supernet and {_EVALUATED} evaluations {once[0]:.0f} s; a search {np.mean(searches, axis=0)[0]:.1f} s on average"
    )
    return [
        Result(
            f"{unit} to serve {count} device types",
            float(ours[count - 1, clock]),
            "s",
            f"{count} trainings",
            float(apart[count - 1, clock]),
            1.0 if count == _TYPES[-1] else None,
        )
        for clock, unit in enumerate(("seconds", "CPU seconds"))
        for count in _TYPES
    ]


def _clocks() -> np.ndarray:
    """Return the seconds of the clock on the wall and those of this process on all processors."""
    return np.array([perf_counter(), process_time()])


def _search(number: int, evaluated: Evaluated, features: Features) -> Encoding:
    """Return what is found for one made-up type: it pays for MACs, values moved and layers in its own proportions."""
    random_ = np.random.default_rng(number)
    weights = np.exp(random_.normal(0.0, 1.0, 3)) * np.array([1e-6, 1e-5, 2e-2])

    def ms(encodings: list[Encoding]) -> np.ndarray:
        costs = features.costs(encodings)
        return np.asarray(costs[:, [0, 2, 3]] @ weights * np.exp(random_.normal(0.0, 0.02, len(encodings))))

    family = evaluated.supernet.space
    chosen = to_measure(features, pool(family, 0), _MEASURED, {}, seed=number)
    measured = [{"encoding": one, "median_ms": float(t)} for one, t in zip(chosen, ms(chosen), strict=True)]
    limit = float(np.median(ms(pool(family, 0))))
    wanted = {"name": f"type {number}", "limits": {"latency_ms": limit}, "measurements": measured}
    search = TypeSearch(_SPEC, wanted, evaluated, Accuracies(evaluated), features)
    search.refine(4, lambda _: None)
    return tuple(search.result()["candidates"][0]["encoding"])
