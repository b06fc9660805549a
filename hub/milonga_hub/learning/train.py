"""Train all subnets of a supernet at once: the sandwich rule with in-place distillation (Yu & Huang 2019; BigNAS 2020)."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milonga_hub.learning.data import Data, batches
from milonga_hub.learning.spaces import Encoding, space
from milonga_hub.learning.supernet import Supernet, recalibrate

# Random subnets in each step, beside the largest and the smallest.
_RANDOM_SUBNETS = 2
_LABEL_SMOOTHING = 0.1
_WEIGHT_DECAY = 1e-4
_WARM_UP_SHARE = 0.1
# A gradient of four subnets is large in the first steps.
_MAX_GRADIENT_NORM = 5.0
_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Recipe:
    """How to train. `learning_rate` is for a batch of 64 and scales with it."""

    space: str
    resolution_px: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Point:
    """One epoch of the curve. Accuracies are shares of the validation split."""

    epoch: int
    loss: float
    accuracy_largest: float
    accuracy_smallest: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that training needs to go on exactly where it was."""

    recipe: dict[str, Any]
    classes: int
    model: dict[str, Tensor]
    optimiser: dict[str, Any]
    history: list[dict[str, float]]
    random_state: Any
    torch_state: Tensor

    def write(self, path: Path) -> None:
        """Replace the file in one step."""
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            torch.save(vars(self), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        return cls(**torch.load(path, weights_only=False))


def load_supernet(path: str | Path) -> Supernet:
    """Return the supernet of a checkpoint."""
    checkpoint = Checkpoint.read(Path(path))
    supernet = Supernet(space(checkpoint.recipe["space"]), int(checkpoint.recipe["resolution_px"]), checkpoint.classes)
    supernet.load_state_dict(checkpoint.model)
    return supernet


class Trainer:
    """Trains epoch by epoch and writes a checkpoint after each; a new one on the same path goes on from there."""

    def __init__(self, data: Data, recipe: Recipe, path: Path, base: Path | None = None) -> None:
        """`base` is a checkpoint of the same space and size to start from."""
        self._data, self._recipe, self._path = data, recipe, path
        torch.manual_seed(recipe.seed)
        self._random = random.Random(recipe.seed)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self.supernet = Supernet(space(recipe.space), recipe.resolution_px, data.classes)
        if base is not None:
            self.supernet.load_state_dict(Checkpoint.read(base).model)
        decayed = [weight for weight in self.supernet.parameters() if weight.dim() > 1]
        plain = [weight for weight in self.supernet.parameters() if weight.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        self._optimiser = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
        self.history: list[Point] = []
        if path.exists():
            self._restore()

    def _restore(self) -> None:
        checkpoint = Checkpoint.read(self._path)
        self.supernet.load_state_dict(checkpoint.model)
        self._optimiser.load_state_dict(checkpoint.optimiser)
        self.history = [Point(**point) for point in checkpoint.history]  # type: ignore[arg-type]
        self._random.setstate(checkpoint.random_state)
        self._generator.set_state(checkpoint.torch_state)

    def run(self, tell: Callable[[float, Point | None, float], None]) -> list[Point]:
        """Train to the end and return the curve. `tell(fraction, newest point, loss)` hears of every step."""
        steps = math.ceil(len(self._data.x_train) / self._recipe.batch_size)
        for epoch in range(len(self.history), self._recipe.epochs):
            total = 0.0
            pictures = batches(self._data, self._recipe.batch_size, self._generator)
            for step, (x, y) in enumerate(pictures):
                done = (epoch + step / steps) / self._recipe.epochs
                total += self._step(x, y, self._rate(done))
                tell(done, self.history[-1] if self.history else None, total / (step + 1))
            self.history.append(self._measure(epoch + 1, total / steps))
            self._checkpoint().write(self._path)
            tell((epoch + 1) / self._recipe.epochs, self.history[-1], total / steps)
        return self.history

    def _rate(self, done: float) -> float:
        """Return the learning rate at this share of the training: linear warm-up, then a cosine to nothing."""
        peak = self._recipe.learning_rate * self._recipe.batch_size / 64.0
        if done < _WARM_UP_SHARE:
            return peak * (done / _WARM_UP_SHARE * 0.95 + 0.05)
        return peak * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)))

    def _step(self, x: Tensor, y: Tensor, rate: float) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        space_ = self.supernet.space
        logits = self.supernet(x, space_.largest())
        loss = F.cross_entropy(logits, y, label_smoothing=_LABEL_SMOOTHING)
        loss.backward()
        # The largest teaches the others, within the same step.
        taught = F.softmax(logits.detach(), dim=1)
        others = [space_.smallest(), *(space_.sample(self._random) for _ in range(_RANDOM_SUBNETS))]
        for encoding in others:
            F.cross_entropy(self.supernet(x, encoding), taught).backward()
        nn.utils.clip_grad_norm_(self.supernet.parameters(), _MAX_GRADIENT_NORM)
        self._optimiser.step()
        return float(loss.detach())

    def _measure(self, epoch: int, loss: float) -> Point:
        space_ = self.supernet.space
        largest, smallest = (
            accuracy(logits_of(self.supernet, encoding, self._data), self._data.y_val)
            for encoding in (space_.largest(), space_.smallest())
        )
        return Point(epoch, loss, largest, smallest)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            recipe=asdict(self._recipe),
            classes=self._data.classes,
            model=self.supernet.state_dict(),
            optimiser=self._optimiser.state_dict(),
            history=[asdict(point) for point in self.history],
            random_state=self._random.getstate(),
            torch_state=self._generator.get_state(),
        )


def subnet(supernet: Supernet, encoding: Encoding, data: Data) -> nn.Module:
    """Return the subnet ready for use: extracted, its batch statistics estimated, in evaluation mode."""
    return recalibrate(supernet.extract(encoding), data.calibration)


@torch.no_grad()
def logits_of(supernet: Supernet, encoding: Encoding, data: Data) -> Tensor:
    """Return the subnet's logits (n, classes) on the validation split."""
    network = subnet(supernet, encoding, data)
    return torch.cat([network(part) for part in data.x_val.split(_EVALUATION_BATCH)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    return float((logits.argmax(dim=1) == labels).float().mean())
