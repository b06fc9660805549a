"""How good a data set version is to learn from: pictures or boxes of each class and split, and what to do about flaws."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milonga import yolo

from milonga_hub.datasets.rules import TRAIN, Sample
from milonga_hub.tasks import Task

# Fewer than these to train on, and a class is mostly guessed.
FEW_TO_TRAIN = 20
# A class that is so many times rarer than the most frequent one is easily never answered.
MUCH_RARER = 10
# Fewer than these to validate on, and an accuracy says little: one picture is five points.
FEW_TO_VALIDATE = 20


@dataclass(frozen=True)
class ClassHealth:
    """How often a class is shown in each split."""

    name: str
    train: int
    validation: int

    @property
    def total(self) -> int:
        return self.train + self.validation


@dataclass(frozen=True)
class Sizes:
    """Widths and heights in pixels of pictures that were looked at, and their bytes on average."""

    looked_at: int
    smallest: tuple[int, int]
    typical: tuple[int, int]
    largest: tuple[int, int]
    mean_bytes: float


@dataclass(frozen=True)
class Health:
    classes: tuple[ClassHealth, ...]
    # Pictures without any box; for detection alone.
    without_objects: int
    # What to do for better networks, in whole sentences.
    advice: tuple[str, ...]


def health_of(task: Task, classes: Sequence[str], samples: Sequence[Sample], rejected_count: int) -> Health:
    """Return counts of each class and split, and advice."""
    found = by_class(task, classes, samples)
    bare = sum(not sample.boxes for sample in samples) if task is Task.DETECTION else 0
    validating = sum(sample.split != TRAIN for sample in samples)
    return Health(found, bare, tuple(_advice(task, found, validating, rejected_count)))


def by_class(task: Task, classes: Sequence[str], samples: Sequence[Sample]) -> tuple[ClassHealth, ...]:
    """Return how many pictures, or boxes for detection, of each class are in each split."""
    counted: Counter[tuple[str, bool]] = Counter()
    for sample in samples:
        labels = [box.label for box in sample.boxes] if task is Task.DETECTION else [sample.label]
        counted.update((label, sample.split == TRAIN) for label in labels)
    return tuple(ClassHealth(name, counted[name, True], counted[name, False]) for name in classes)


def remarks(task: Task, classes: Sequence[ClassHealth]) -> Iterator[str]:
    """Yield in whole sentences what is odd but harmless.

    Raises ValueError where no training picture has an object.
    """
    if task is Task.DETECTION:
        yield from yolo.remarks([each.name for each in classes], [each.train for each in classes])
    else:
        fewest, most = (extreme(each.train for each in classes) for extreme in (min, max))
        if most > MUCH_RARER * fewest:
            yield f"Classes have between {fewest} and {most} training pictures; rare ones weigh more."
    if unseen := [each.name for each in classes if each.train and not each.validation]:
        yield f"No validation picture shows {_named(unseen)}; accuracies say nothing of them."


def _advice(task: Task, classes: Sequence[ClassHealth], validating: int, rejected_count: int) -> list[str]:
    said = []
    few = [each.name for each in classes if each.train < FEW_TO_TRAIN]
    most = max((each.train for each in classes), default=0)
    rare = [each.name for each in classes if each.name not in few and each.train * MUCH_RARER < most]
    if few:
        said.append(f"Add {task.counted} of {_named(few)}: fewer than {FEW_TO_TRAIN} to train on is little.")
    if rare:
        said.append(f"Add {task.counted} of {_named(rare)}: they are {MUCH_RARER} times rarer than the most frequent.")
    if validating < FEW_TO_VALIDATE:
        said.append(f"Add pictures: {validating} to validate on say little of how good a network is.")
    if rejected_count:
        said.append("Look at the files that were left out below, put them right and send them again.")
    return said


def _named(names: Sequence[str], at_most: int = 4) -> str:
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def sizes_of(found: Sequence[tuple[int, int, int]]) -> Sizes | None:
    """Return the spread of (width, height, bytes); None of none."""
    if not found:
        return None
    by_area = sorted(found, key=lambda each: (each[0] * each[1], each))
    small, typical, large = by_area[0], by_area[len(by_area) // 2], by_area[-1]
    mean_bytes = statistics.fmean(size_bytes for _, _, size_bytes in found)
    return Sizes(len(found), small[:2], typical[:2], large[:2], mean_bytes)
