"""What the benchmarks of learning share: a task with room between small and large networks, and networks trained alone."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from milonga_hub.learning.accuracies import Accuracies
from milonga_hub.learning.checkpoint import Point, Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.export import export
from milonga_hub.learning.latencies import Features, pool, to_measure
from milonga_hub.learning.spaces import Encoding, Space
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.task import Task
from milonga_hub.learning.train import Trainer, evaluated, subnet
from milonga_hub.learning.type_search import TypeSearch
from PIL import Image

from benchmarks._timing import Session, medians_ms

Item = TypeVar("Item")

SIZE_PX = 16
TRAIN, VALIDATION = 2000, 3000


def told(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield the items and say on standard error how many are done."""
    for number, item in enumerate(items, 1):
        print(f"\r  {what} {number} of {total} ", end="", file=sys.stderr, flush=True)
        yield item
    print(file=sys.stderr)


def task(seed: int = 0) -> Classification:
    """Return handwritten digits (scikit-learn) on photographs (scikit-image): ten classes, 16 px, faint and shifted.

    Digits and their photographs' corners differ between the splits. Plain digits are too easy: all networks are alike.
    """
    from skimage import data as photographs
    from sklearn.datasets import load_digits

    found = load_digits()
    photos = [getattr(photographs, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    source, border = random.Random(seed), len(found.images) * 3 // 4
    arrays: dict[str, np.ndarray] = {"classes": np.array([str(digit) for digit in range(10)])}
    for split, count, indices in (
        ("train", TRAIN, range(border)),
        ("val", VALIDATION, range(border, len(found.images))),
    ):
        chosen = [source.choice(indices) for _ in range(count)]
        pictures = [_picture(source, found.images[index] / 16.0, source.choice(photos)) for index in chosen]
        arrays |= {
            f"x_{split}": np.stack(pictures),
            f"y_{split}": found.target[chosen],
            f"added_{split}": np.ones(count),
        }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return Classification(load(path))


def _picture(source: random.Random, digit: np.ndarray, photo: np.ndarray) -> np.ndarray:
    zoom, side = source.randint(1, 4), source.randint(11, 15)
    top, left = (source.randrange(photo.shape[axis] - SIZE_PX * zoom) for axis in (0, 1))
    ground = Image.fromarray(photo[top : top + SIZE_PX * zoom, left : left + SIZE_PX * zoom, :3]).resize((SIZE_PX,) * 2)
    picture = np.asarray(ground, dtype=np.float64).copy()
    ink = np.asarray(Image.fromarray((digit * 255).astype(np.uint8)).resize((side, side)), dtype=np.float64) / 255
    y, x = (source.randrange(SIZE_PX - side + 1) for _ in range(2))
    strength = source.uniform(120, 220) * (1 if picture[y : y + side, x : x + side].mean() < 128 else -1)
    picture[y : y + side, x : x + side] += strength * ink[:, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def trained(space: Space, of: Task, recipe: Recipe, folder: Path, name: str, base: Path | None = None) -> Supernet:
    """Return the supernet, trained, on from a checkpoint where one is given; progress goes to standard error."""

    def tell(fraction: float, point: Point | None, loss: float) -> None:
        print(f"\r  training {name}: {fraction:4.0%} ", end="", file=sys.stderr, flush=True)

    trainer = Trainer(of, space, recipe, checkpoint(folder, name), base)
    trainer.run(tell)
    print(file=sys.stderr)
    return trainer.supernet


def checkpoint(folder: Path, name: str) -> Path:
    """Return where `trained` leaves what it trained."""
    return folder / f"{name.replace(' ', '-')}.pt"


def alone(space: Space, encoding: Encoding, of: Classification, recipe: Recipe, folder: Path, name: str) -> float:
    """Return the accuracy of the same network trained by itself, for as many samples, by the same code."""
    one = Fixed(space, encoding)
    return evaluated(trained(one, of, replace(recipe), folder, name), one.largest(), of)


def session(supernet: Supernet, encoding: Encoding, of: Task, folder: Path) -> Session:
    """Return a subnet as it is deployed, ready to be timed."""
    space, path = supernet.space, folder / "timed.onnx"
    export(space.deployed(subnet(supernet, encoding, of)), space.resolution(encoding), path)
    return Session(path, space.resolution(encoding))


class Stopwatch:
    """Medians in ms of subnets on this machine's ONNX Runtime, one thread; each subnet is timed once."""

    def __init__(self, supernet: Supernet, of: Task, folder: Path) -> None:
        self._supernet, self._task, self._folder = supernet, of, folder
        self._known: dict[Encoding, float] = {}

    def ms(self, encoding: Encoding) -> float:
        if encoding not in self._known:
            self._known[encoding] = medians_ms([session(self._supernet, encoding, self._task, self._folder)])[0]
        return self._known[encoding]


def searched(
    kept: Evaluated, ms: Callable[[Encoding], float], limits: Mapping[str, float], seed: int, measured: int, budget: int
) -> TypeSearch:
    """Return the search for a device that takes `ms`, after it measured and evaluated as many subnets as told."""
    family = kept.supernet.space
    features, sample = Features(family, kept.supernet.classes), pool(family, seed)
    chosen = to_measure(features, sample, measured, {}, seed=seed)
    spec = {"seed": seed, "population": 40, "generations": 20, "verified_candidates": 4}
    measurements = [{"encoding": one, "median_ms": ms(one)} for one in chosen]
    wanted = {"name": "here", "limits": limits, "measurements": measurements}
    search = TypeSearch(spec, wanted, kept, Accuracies(kept), features)
    search.refine(budget, lambda _: None)
    return search
