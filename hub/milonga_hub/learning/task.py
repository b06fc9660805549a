"""What a supernet learns from: the interface between training and one kind of task with its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Optimiser:
    """What suits a kind of task: "sgd" or "adamw", and the learning rate for a batch of 64."""

    name: str
    learning_rate: float


class Task(ABC):
    """A data set of one kind of task. Pictures are normalised float32 (n, 3, H, W) at the space's largest resolution."""

    #: What a recipe that leaves it open is trained with.
    optimiser = Optimiser("sgd", 0.1)
    #: Number of classes that networks tell apart.
    classes: int
    #: Pictures in the training split.
    count: int

    @abstractmethod
    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Any]]:
        """Yield one epoch of shuffled, augmented (pictures, targets), all of its randomness from the generator."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the scalar loss, a mean over pictures, of what a network in training mode made."""

    @abstractmethod
    def distilled(self, outputs: Any, taught: Any, targets: Any) -> Tensor:
        """Return the scalar loss of a smaller subnet against what the largest made of the same pictures (detached)."""

    @property
    @abstractmethod
    def calibration(self) -> Sequence[Tensor]:
        """Return batches of training pictures to estimate batch statistics on, the same ones every time."""

    @abstractmethod
    def evaluate(self, network: nn.Module, resolution_px: int) -> float:
        """Return how good an extracted, recalibrated network is on the validation split, 0 to 1: accuracy or mAP50-95."""

    def part(self, pictures: Tensor, targets: Any, start: int, stop: int) -> tuple[Tensor, Any]:
        """Return the pictures [start, stop) of a batch with their targets, which here are one row a picture."""
        return pictures[start:stop], targets[start:stop]


class Mixed(Task):
    """Several data sets of the same classes in each batch, by shares: new pictures with a replay of old ones.

    The first is what an epoch goes through once, calibrates on and is judged by; the others are drawn from as needed.
    """

    def __init__(self, tasks: Sequence[Task], shares: Sequence[float]) -> None:
        """`shares` (tasks,) are above 0 and are scaled to a sum of 1. Raises ValueError where the classes differ."""
        if len(tasks) != len(shares) or min(shares) <= 0:
            raise ValueError("each data set needs a share above 0")
        if len({task.classes for task in tasks}) > 1:
            raise ValueError("data sets that are mixed must have the same classes")
        self.tasks = list(tasks)
        self._shares = [share / sum(shares) for share in shares]
        self.optimiser = tasks[0].optimiser
        self.classes, self.count = tasks[0].classes, round(tasks[0].count / self._shares[0])

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Any]]:
        sizes = [max(2, round(size * share)) for share in self._shares]
        others = [_endless(task, part, generator) for task, part in zip(self.tasks[1:], sizes[1:], strict=True)]
        for first in self.tasks[0].batches(sizes[0], generator):
            parts = [first, *(next(other) for other in others)]
            yield torch.cat([pictures for pictures, _ in parts]), torch.cat([targets for _, targets in parts])

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return self.tasks[0].loss(outputs, targets)

    def distilled(self, outputs: Any, taught: Any, targets: Any) -> Tensor:
        return self.tasks[0].distilled(outputs, taught, targets)

    @property
    def calibration(self) -> Sequence[Tensor]:
        return self.tasks[0].calibration

    def evaluate(self, network: nn.Module, resolution_px: int) -> float:
        return self.tasks[0].evaluate(network, resolution_px)


def _endless(task: Task, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Any]]:
    while True:
        yield from task.batches(size, generator)


def resized(pictures: Tensor, resolution_px: int) -> Tensor:
    """Return pictures (n, 3, H, W) at this resolution, smoothed as Pillow's bilinear reduction is."""
    if pictures.shape[-1] == resolution_px:
        return pictures
    return F.interpolate(pictures, (resolution_px, resolution_px), mode="bilinear", antialias=True, align_corners=False)
