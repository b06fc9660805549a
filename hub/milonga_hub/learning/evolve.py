"""Find the Pareto front of accuracy and latency within limits: NSGA-II (Deb 2002) over encodings and precisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from milonga_hub.learning.spaces import Encoding, Space

#: A subnet and the number of one of the precisions that are searched over.
Choice = tuple[Encoding, int]


@dataclass(frozen=True)
class Figures:
    """Predictions for n choices. `excess` (n, m) is how far each limit is passed, relative; at most 0 where it holds."""

    accuracy: NDArray[np.float64]
    ms: NDArray[np.float64]
    excess: NDArray[np.float64]


Judge = Callable[[list[Choice]], Figures]


class _Problem(Problem):
    def __init__(
        self,
        space: Space,
        judge: Judge,
        limits: int,
        precisions: int,
        seen: dict[Choice, tuple[float, float, bool]],
    ) -> None:
        most = np.array([*space.sizes, precisions]) - 1
        super().__init__(n_var=len(most), n_obj=2, n_ieq_constr=limits, xl=0, xu=most, vtype=int)
        self._space, self._judge, self._seen = space, judge, seen

    def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
        choices = [(self._space.canonical([int(value) for value in row[:-1]]), int(row[-1])) for row in x]
        figures = self._judge(choices)
        fits = [bool((row <= 0).all()) for row in figures.excess]
        for choice, accuracy, ms, fit in zip(choices, figures.accuracy, figures.ms, fits, strict=True):
            self._seen[choice] = (float(accuracy), float(ms), fit)
        out["F"] = np.c_[-figures.accuracy, figures.ms]
        if figures.excess.shape[1]:
            out["G"] = figures.excess


@dataclass(frozen=True)
class Found:
    """The front, fastest first, all choices seen that keep the limits, and the fastest of all, within the limits or not."""

    front: list[Choice]
    fitting: list[Choice]
    fastest: Choice


def search(
    space: Space, judge: Judge, limits: int, population: int, generations: int, seed: int, precisions: int = 1
) -> Found:
    """Return what the search found; the front is empty where no subnet keeps the limits."""
    seen: dict[Choice, tuple[float, float, bool]] = {}
    problem = _Problem(space, judge, limits, precisions, seen)
    # Both ends of the space in each precision: without the smallest, tight limits could look impossible.
    ends = np.array([[*end, option] for option in range(precisions) for end in (space.smallest(), space.largest())])
    left = max(0, population - len(ends))
    random = IntegerRandomSampling()(problem, left, random_state=np.random.default_rng(seed)).get("X")
    algorithm = NSGA2(
        pop_size=population,
        sampling=np.vstack([ends, random]).astype(int),
        crossover=UniformCrossover(prob=0.9, repair=RoundingRepair()),
        mutation=PM(prob=1.0, prob_var=1.5 / problem.n_var, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    minimize(problem, algorithm, ("n_gen", generations), seed=seed, verbose=False)
    fitting = [choice for choice, (_, _, fits) in seen.items() if fits]
    fastest = min(seen, key=lambda choice: seen[choice][1])
    if not fitting:
        return Found([], [], fastest)
    objectives = np.array([[-seen[choice][0], seen[choice][1]] for choice in fitting])
    best = NonDominatedSorting().do(objectives, only_non_dominated_front=True)
    return Found(sorted((fitting[index] for index in best), key=lambda choice: seen[choice][1]), fitting, fastest)


def thinned(front: list[Choice], count: int) -> list[Choice]:
    """Return at most `count` of the front, evenly spread, both ends among them."""
    if len(front) <= count:
        return front
    if count == 1:
        return front[-1:]
    return [front[round(index * (len(front) - 1) / (count - 1))] for index in range(count)]
