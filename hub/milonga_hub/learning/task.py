"""What a supernet learns from: the interface between training and one kind of task with its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from milonga.inputs import Input
from milonga_compiler.backends.base import Floats
from milonga_compiler.parity import Judge
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Optimiser:
    """What suits a kind of task: "sgd" or "adamw", and the learning rate for a batch of 64.

    Where subnets share weights the rate is `shared` times that: each learns from its part of a gradient alone.
    """

    name: str
    learning_rate: float
    shared: float = 1.0


class PictureJudge(Judge):
    """What outputs on the validation pictures come to, also picture by picture."""

    #: Which pictures (n,) judge versions alone: how they are answered is no part of `accuracy`.
    held_back: NDArray[np.bool_]

    @abstractmethod
    def scores(self) -> NDArray[np.float64]:
        """Return how well each picture (n,) is answered as devices answer it, 0 to 1."""

    @abstractmethod
    def accuracy_of(self, chosen: NDArray[np.bool_]) -> float:
        """Return the accuracy on the chosen of the pictures (n,), at least one."""

    def gains(self, champion: PictureJudge, chosen: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Return by how much more accurate this is than the champion on the chosen of the pictures (n,), drawn again and again (times,).

        None where the accuracy is the mean of the pictures' own scores: there is an exact test for these.
        """
        return None

    def accuracy(self) -> float:
        """Return the accuracy by which networks are trained, chosen and built: on all pictures but those held back."""
        return self.accuracy_of(~self.held_back[: len(self.scores())])


# What is held as float32 at once, and what a network takes at once: activations need many times the memory of a picture.
_PART_BYTES = 256 << 20
_MOST_PIXELS = 8 * 640**2

# Makes outputs (n, ...) of normalised pictures (n, 3, H, W): a network, or what an engine loaded.
Run = Callable[[Floats], Floats]


class Task(ABC):
    """A data set of one kind of task. Pictures are normalised float32 (n, 3, H, W) at the space's largest resolution.

    All that differs between kinds of tasks is here: jobs open a task (learning.tasks) and know nothing else of its kind.
    """

    #: What a recipe that leaves it open is trained with.
    optimiser = Optimiser("sgd", 0.1)
    #: For how much of the training the largest subnet then learns alone.
    largest_alone_share = 0.0
    #: What accuracy is called, for people.
    measure: ClassVar[str] = "accuracy"
    #: Names of the classes that networks tell apart.
    names: tuple[str, ...]
    #: How many they are.
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
    def input(self, resolution_px: int) -> Input:
        """Return how devices make inputs of pictures for networks of this resolution."""

    @property
    @abstractmethod
    def added(self) -> NDArray[np.int64]:
        """Return which version of the data set brought each validation picture (n,)."""

    @property
    @abstractmethod
    def held_back(self) -> NDArray[np.bool_]:
        """Return which validation pictures (n,) judge versions alone; none where there are too few."""

    @property
    def judged_count(self) -> int:
        """Return of how many validation pictures accuracy is told: of all but those held back."""
        return int((~self.held_back).sum())

    @property
    @abstractmethod
    def shown(self) -> NDArray[np.bool_]:
        """Return which classes each validation picture shows (n, classes)."""

    @abstractmethod
    def validation(self, seen: Input) -> Iterator[Floats]:
        """Yield the validation pictures in parts, as devices make inputs of them."""

    @abstractmethod
    def calibrating(self, seen: Input, count: int, seed: int) -> Floats:
        """Return so many training pictures, as devices make inputs of them, to find ranges of activations on."""

    @abstractmethod
    def judge(self, seen: Input, names: Sequence[str] | None = None) -> PictureJudge:
        """Return a judge of the outputs of a network with this input; `names` are its classes if they are other ones."""

    @abstractmethod
    def newest(self, learned: int = 0) -> Task | None:
        """Return the task with those training pictures alone that came after the data set's version of this number, or with
        the newest version where it is 0; None where all or none did."""

    def evaluate(self, run: Run, resolution_px: int) -> float:
        """Return how good outputs are on the validation pictures that are not held back, 0 to 1."""
        seen = self.input(resolution_px)
        judge = self.judge(seen)
        for part in self.validation(seen):
            judge.add(run(part))
        return judge.accuracy()

    def joined(self, batches: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        """Return several batches as one; targets here are one row a picture."""
        return torch.cat([pictures for pictures, _ in batches]), torch.cat([targets for _, targets in batches])

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
        if len({task.names for task in tasks}) > 1:
            raise ValueError("data sets that are mixed must have the same classes")
        self.tasks = list(tasks)
        self._shares = [share / sum(shares) for share in shares]
        self.optimiser, self.largest_alone_share = tasks[0].optimiser, tasks[0].largest_alone_share
        self.names, self.classes = tasks[0].names, tasks[0].classes
        self.count = round(tasks[0].count / self._shares[0])

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Any]]:
        sizes = [max(2, round(size * share)) for share in self._shares]
        others = [_endless(task, part, generator) for task, part in zip(self.tasks[1:], sizes[1:], strict=True)]
        for first in self.tasks[0].batches(sizes[0], generator):
            yield self.joined([first, *(next(other) for other in others)])

    def part(self, pictures: Tensor, targets: Any, start: int, stop: int) -> tuple[Tensor, Any]:
        return self.tasks[0].part(pictures, targets, start, stop)

    def joined(self, batches: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        return self.tasks[0].joined(batches)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return self.tasks[0].loss(outputs, targets)

    def distilled(self, outputs: Any, taught: Any, targets: Any) -> Tensor:
        return self.tasks[0].distilled(outputs, taught, targets)

    @property
    def calibration(self) -> Sequence[Tensor]:
        return self.tasks[0].calibration

    def input(self, resolution_px: int) -> Input:
        return self.tasks[0].input(resolution_px)

    @property
    def added(self) -> NDArray[np.int64]:
        return self.tasks[0].added

    @property
    def held_back(self) -> NDArray[np.bool_]:
        return self.tasks[0].held_back

    @property
    def shown(self) -> NDArray[np.bool_]:
        return self.tasks[0].shown

    def validation(self, seen: Input) -> Iterator[Floats]:
        return self.tasks[0].validation(seen)

    def calibrating(self, seen: Input, count: int, seed: int) -> Floats:
        return self.tasks[0].calibrating(seen, count, seed)

    def judge(self, seen: Input, names: Sequence[str] | None = None) -> PictureJudge:
        return self.tasks[0].judge(seen, names)

    def newest(self, learned: int = 0) -> Task | None:
        return self.tasks[0].newest(learned)


def together(parts: Iterable[Floats], size_px: int) -> Floats:
    """Return inputs that come in parts as one array (n, 3, H, W); none where there are none."""
    return np.concatenate([np.empty((0, 3, size_px, size_px), dtype=np.float32), *parts])


def _endless(task: Task, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Any]]:
    while True:
        yield from task.batches(size, generator)


def runner(network: nn.Module) -> Run:
    """Return a network in evaluation mode that makes one tensor, as a function of arrays."""
    where = next(network.parameters()).device

    def run(pictures: Floats) -> Floats:
        step = max(1, _MOST_PIXELS // (pictures.shape[2] * pictures.shape[3]))
        with torch.no_grad():
            made = [network(part.to(where)).float().cpu() for part in torch.from_numpy(pictures).split(step)]
        return np.asarray(torch.cat(made).numpy())

    return run


def parts(count: int, size_px: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges in which so many inputs of this size go through an engine, which is started for each."""
    step = max(1, _PART_BYTES // (3 * 4 * size_px**2))
    yield from ((start, min(start + step, count)) for start in range(0, count, step))


def resized(pictures: Tensor, resolution_px: int) -> Tensor:
    """Return pictures (n, 3, H, W) at this resolution, smoothed as Pillow's bilinear reduction is."""
    if pictures.shape[-1] == resolution_px:
        return pictures
    return F.interpolate(pictures, (resolution_px, resolution_px), mode="bilinear", antialias=True, align_corners=False)
