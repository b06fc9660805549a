"""The search against random choice, against TANGO's search and against TANGO's table, by what their fronts dominate.

Latencies are measured (ONNX Runtime, one thread), accuracies are those of networks that were really run. All trainings
see as many samples. TANGO's published search is followed as its paper and code tell it: the largest network
alone is trained, four random subnets are cut out of it, each trains for one epoch, and the best is taken; its table takes
one of five levels by the device's memory.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from milonga_compiler.files import write_atomically
from milonga_hub.learning.checkpoint import Checkpoint
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.spaces import Encoding, space
from milonga_hub.learning.spaces.fixed import Fixed, levels
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.train import Trainer, evaluated
from pymoo.indicators.hv import HV
from scipy.stats import wilcoxon

from benchmarks._digits import SIZE_PX, Stopwatch, alone, searched, task, told, trained
from benchmarks.results import Result
from benchmarks.subnets import RECIPE

_SEEDS = range(6)
_EVALUATIONS = 24
_RANDOM = 10
_MEASURED = 8
_TANGO_SUBNETS = 4
Point = tuple[float, float]


class _Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.family, self.digits = folder, space("resnet", SIZE_PX), task()
        self.supernet = trained(self.family, self.digits, RECIPE, folder, "the supernet")
        self.largest_base = _checkpoint(self._largest_only(), RECIPE, folder / "largest-base.pt")
        self.clock = Stopwatch(self.supernet, self.digits, folder)
        self.levels = [self._level(number, one) for number, one in enumerate(levels(self.family))]
        self.evaluated = Evaluated(self.supernet, self.digits, folder, write_atomically)

    def _largest_only(self) -> Supernet:
        """Return a supernet of which the largest subnet alone was trained."""
        fixed = Fixed(self.family, self.family.largest())
        single = trained(fixed, self.digits, RECIPE, self.folder, "the largest alone")
        supernet = Supernet(self.family, 10)
        supernet.shared.load_state_dict(single.shared.state_dict())
        return supernet

    def _level(self, number: int, one: Encoding) -> Point:
        return alone(self.family, one, self.digits, RECIPE, self.folder, f"level {number + 1}"), self.clock.ms(one)

    def ours(self, seed: int) -> list[Point]:
        """Return the subnets that were evaluated, a random part of them and then those of which the front is expected to gain most."""
        folder = self.folder / f"ours-{seed}"
        folder.mkdir()
        kept = Evaluated(self.supernet, self.digits, folder, write_atomically)
        source = random.Random(seed)
        for one in (self.family.smallest(), self.family.largest()):
            kept.accuracy(one)
        while kept.count() < _RANDOM:
            kept.accuracy(self.family.sample(source))
        searched(kept, self.clock.ms, {}, seed, _MEASURED, _EVALUATIONS - kept.count())
        return [(accuracy, self.clock.ms(one)) for one, accuracy in kept.all().items()]

    def at_random(self, seed: int) -> list[Point]:
        """Return as many random subnets of the same supernet, both ends among them."""
        source = random.Random(1000 + seed)
        chosen = dict.fromkeys([self.family.smallest(), self.family.largest()])
        while len(chosen) < _EVALUATIONS:
            chosen.setdefault(self.family.sample(source))
        return [(self.evaluated.accuracy(one), self.clock.ms(one)) for one in chosen]

    def tango(self, seed: int) -> list[Point]:
        """Return the best of four random subnets of the largest network, each trained for one more epoch."""
        source, points = random.Random(2000 + seed), []
        for number in range(_TANGO_SUBNETS):
            one = self.family.sample(source)
            points.append((self._fine_tuned(one, f"tango-{seed}-{number}"), self.clock.ms(one)))
        return [max(points)]

    def _fine_tuned(self, one: Encoding, name: str) -> float:
        fixed, path = Fixed(self.family, one), self.folder / f"{name}.pt"
        recipe = replace(RECIPE, epochs=1, learning_rate=RECIPE.learning_rate / 10)
        trainer = Trainer(self.digits, fixed, recipe, path, self.largest_base)
        trainer.run()
        return evaluated(trainer.supernet, fixed.largest(), self.digits)


def _checkpoint(supernet: Supernet, recipe: object, path: Path) -> Path:
    state = supernet.state_dict()
    Checkpoint(recipe, supernet.space.settings, supernet.classes, state, state, {}, 0, [], None, None).write(path)  # type: ignore[arg-type]
    return path


def _hypervolume(points: Sequence[Point], slowest_ms: float) -> float:
    """Return the share of (error, log latency) space that is dominated, up to error 1 and the slowest network."""
    scaled = np.array([[1 - accuracy, np.log1p(ms) / np.log1p(slowest_ms)] for accuracy, ms in points])
    return float(HV(ref_point=np.array([0.9, 1.05]))(scaled))


def run() -> list[Result]:
    """Compare the four over six seeds of search; trainings are done once."""
    with tempfile.TemporaryDirectory() as name:
        bench = _Bench(Path(name))
        slowest = bench.clock.ms(bench.family.largest())
        rows = [
            [_hypervolume(way(seed), slowest) for way in (bench.ours, bench.at_random, bench.tango)]
            for seed in told(_SEEDS, "searching with seed", len(_SEEDS))
        ]
    ours, at_random, tango = np.array(rows).T
    table = max(_hypervolume([level], slowest) for level in bench.levels)
    for seed, row in zip(_SEEDS, rows, strict=True):
        print(f"  seed {seed}: found {row[0]:.4f}, random {row[1]:.4f}, TANGO's search {row[2]:.4f}, table {table:.4f}")
    p_value = float(wilcoxon(ours, at_random, alternative="greater").pvalue)
    wins = int((ours > at_random).sum())
    print(f"  against random: {wins} of {len(rows)} seeds, Wilcoxon p = {p_value:.4f}")
    found = float(np.median(ours))
    return [
        Result(
            "hypervolume, random search over ours",
            float(np.median(at_random)),
            "",
            "ours",
            found,
            1.0,
            float(np.std(ours - at_random)),
        ),
        Result("chance that random is as good (Wilcoxon), over 0.05", p_value, "", "0.05", 0.05, 1.0),
        Result(
            "hypervolume on the worst seed, TANGO's search over ours", float((tango / ours).max()), "", "ours", 1.0, 1.0
        ),
        Result(
            "hypervolume on the worst seed, best level of the table over ours",
            float((table / ours).max()),
            "",
            "ours",
            1.0,
            1.0,
        ),
    ]
