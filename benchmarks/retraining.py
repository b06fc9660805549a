"""Retraining after drift: what networks know of old and of new pictures, before and after, and by other ways to train them.

A supernet learns handwritten digits. Then the world turns and gets noisy (tests/e2e/digits.py), and a fifth as many pictures of it are labelled. A run trains
the supernet on, as a hub does: on all pictures, the new ones in three of ten places at least. Held against it, for as many samples: naive
fine-tuning on the new pictures alone, and training from nothing on all of them; and training from nothing for as many samples as
both trainings took together, which costs several times as much. Accuracies are means over five subnets, from the smallest to the largest, on pictures that none has learned from:
as the world was, and as it is. All ways are by the same code and schedule. MILONGA_BENCH_EFFORT=0.3 takes one seed.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from milonga.pictures import decode, to_array
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.spaces import space
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.task import Task, runner
from milonga_hub.learning.train import subnet
from milonga_hub.training.job import task_of_training
from numpy.typing import NDArray

from benchmarks._digits import SIZE_PX, checkpoint, trained
from benchmarks.results import Result
from tests.e2e import digits

_EFFORT = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
_SEEDS = range(max(1, round(3 * _EFFORT)))
_KNOWN, _NEW, _JUDGED = 1000, 200, 300
_OLD_VERSION, _NEW_VERSION = 1, 2
RECIPE = Recipe("resnet", SIZE_PX, epochs=10, batch_size=32, learning_rate=0.2, seed=0)
_RETRAIN_EPOCHS = 6
_SUBNETS = 5
_BEFORE, _OURS, _NAIVE, _SCRATCH, _WHOLE = (
    "before", "trained on", "fine-tuned on new pictures", "from nothing", "from nothing, samples of both trainings",
)  # fmt: skip
_GROUPS = {"old": _OLD_VERSION, "new": _NEW_VERSION}


def run() -> list[Result]:
    """Train in all ways with each seed, and compare the shares of pictures that are answered wrongly."""
    found = [_seed(seed) for seed in _SEEDS]
    for name in found[0]:
        rows = ", ".join(f"{group} {_mean(found, name, group):.1%}" for group in _GROUPS)
        print(f"  {name}: {rows} ({len(found)} seeds)")
    pairs = [
        *((group, peer) for peer in (_BEFORE, _NAIVE, _SCRATCH, _WHOLE) for group in _GROUPS),
    ]
    return [
        Result(
            f"wrong on {group} pictures, {_OURS}", 1 - _mean(found, _OURS, group), "", peer, 1 - _mean(found, peer, group), _GOALS.get((group, peer)),
        )
        for group, peer in pairs
    ]  # fmt: skip


# New pictures are learned, old ones not forgotten as by the naive way, and training from nothing for as long gains nothing.
_GOALS = {("new", _BEFORE): 0.5, ("old", _NAIVE): 0.75, ("old", _SCRATCH): 1.0, ("new", _SCRATCH): 1.0}


def _mean(found: Sequence[Mapping[str, Mapping[str, float]]], name: str, group: str) -> float:
    return float(np.mean([each[name][group] for each in found]))


def _seed(seed: int) -> dict[str, dict[str, float]]:
    family, recipe = space("resnet", SIZE_PX), replace(RECIPE, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known, everything = (_task(folder, seed, newest) for newest in (_OLD_VERSION, _NEW_VERSION))
        ours, new = task_of_training(everything, True, _OLD_VERSION), everything.newest(_OLD_VERSION)
        assert isinstance(new, Classification)
        samples, again = _RETRAIN_EPOCHS * ours.count, replace(recipe, epochs=_RETRAIN_EPOCHS)
        first = trained(family, known, recipe, folder, "before")
        base = checkpoint(folder, "before")
        scratch = replace(recipe, epochs=_epochs(samples, everything))
        whole = replace(recipe, epochs=_epochs(samples + recipe.epochs * known.count, everything))
        made = {
            _BEFORE: (first, known),
            _OURS: (trained(family, ours, again, folder, "on", base), ours),
            _NAIVE: (trained(family, _repeated(new, ours.count), again, folder, "naively", base), new),
            _SCRATCH: (trained(family, everything, scratch, folder, "from nothing"), everything),
            _WHOLE: (trained(family, everything, whole, folder, "from nothing for longer"), everything),
        }
    return {name: _accuracies(supernet, learned) for name, (supernet, learned) in made.items()}


def _epochs(samples: int, of: Task) -> int:
    """Return how often all pictures are seen for at least so many samples."""
    return -(-samples // of.count)


def _task(folder: Path, seed: int, newest: int) -> Classification:
    """Return the pictures to learn from that there are with this version, and those of both worlds to judge by."""
    world = digits.load(_KNOWN, _NEW, _JUDGED, seed)
    turned = digits.drifted(world.live, seed=100 + seed)
    learned = [*((one, _OLD_VERSION) for one in world.known), *((one, _NEW_VERSION) for one in world.later)]
    judged = [(one, _OLD_VERSION) for one in world.live] + [(one, _NEW_VERSION) for one in turned]
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array([str(digit) for digit in range(10)])}
    for split, some in (("train", [each for each in learned if each[1] <= newest]), ("val", judged)):
        arrays |= {
            f"x_{split}": np.stack([to_array(decode(one.png), SIZE_PX) for one, _ in some]),
            f"y_{split}": np.array([int(one.label) for one, _ in some]),
            f"added_{split}": np.array([version for _, version in some]),
        }
    path = folder / f"{newest}.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return Classification(load(path))


def _repeated(of: Classification, count: int) -> Classification:
    """Return the task with its training pictures again and again, so that an epoch has as many as of others."""
    rows = torch.arange(count) % of.count
    more = rows.numpy()
    data = of.data
    return Classification(
        replace(
            data,
            x_train=data.x_train[rows],
            y_train=data.y_train[rows],
            raw_train=data.raw_train[more],
            added_train=data.added_train[more],
        )
    )


def _accuracies(supernet: Supernet, learned: Task) -> dict[str, float]:
    """Return the mean accuracy of the subnets on both worlds."""
    family, source = supernet.space, random.Random(0)
    chosen = [family.smallest(), family.largest(), *(family.sample(source) for _ in range(_SUBNETS - 2))]
    found = []
    for encoding in chosen:
        seen = learned.input(family.resolution(encoding))
        judge, run_ = learned.judge(seen), runner(family.deployed(subnet(supernet, encoding, learned)))
        for part in learned.validation(seen):
            judge.add(run_(part))
        found.append({group: judge.accuracy_of(learned.added == version) for group, version in _GROUPS.items()})
    return {group: float(np.mean([each[group] for each in found])) for group in _GROUPS}
