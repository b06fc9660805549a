"""What is written of a training, in one step, so that it can go on and its subnets can be handed out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from milonga_hub.learning.hardware import device
from milonga_hub.learning.spaces import rebuilt
from milonga_hub.learning.supernet import Supernet


@dataclass(frozen=True)
class Recipe:
    """How to train.

    `optimiser` is "sgd" (with Nesterov's momentum), "adamw" or "auto", the task's. `learning_rate` is for a batch of 64 and
    scales with it; 0 takes the task's. `batch_size` 0 chooses one by the number of pictures.
    For the first `largest_alone_share` of the training, the largest subnet learns alone, before it teaches the others;
    below 0 takes the task's.
    `patience` is how many epochs without a better subnet end the training; 0 never does. `precision` is "auto", "fp32" or
    "bf16": auto is bf16 where the processor multiplies it faster.
    """

    space: str
    resolution_px: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    random_subnets: int = 2
    warm_up_share: float = 0.1
    largest_alone_share: float = -1.0
    weight_decay: float = 1e-4
    patience: int = 0
    precision: str = "auto"
    optimiser: str = "auto"


@dataclass(frozen=True)
class Point:
    """One epoch of the curve. Accuracies (mAP50-95 for detection) are shares of the validation split."""

    epoch: int
    loss: float
    accuracy_largest: float
    accuracy_smallest: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that training needs to go on exactly where it was; `model` are the averaged weights that are used."""

    recipe: Recipe
    #: What `spaces.rebuilt` makes the space from.
    space: dict[str, Any]
    classes: int
    model: dict[str, Tensor]
    weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    steps: int
    history: list[Point]
    random_state: Any
    torch_state: Tensor

    def write(self, path: Path) -> None:
        """Replace the file in one step."""
        temporary = path.with_name(f".{path.name}.tmp")
        plain = {**vars(self), "recipe": asdict(self.recipe), "history": [asdict(one) for one in self.history]}
        with temporary.open("wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Raises ValueError where the file is not a checkpoint of this version of Milonga."""
        plain = torch.load(path, weights_only=False, map_location="cpu")
        try:
            history = [Point(**point) for point in plain["history"]]
            return cls(**{**plain, "recipe": Recipe(**plain["recipe"]), "history": history})
        except (KeyError, TypeError) as error:
            raise _of_another_version(path) from error


def load_supernet(path: str | Path) -> Supernet:
    """Return the supernet of a checkpoint, on the device of this process.

    Raises ValueError where the file is not a checkpoint of this version of Milonga.
    """
    checkpoint = Checkpoint.read(Path(path))
    supernet = Supernet(rebuilt(checkpoint.space), checkpoint.classes)
    fill(supernet, checkpoint.model, path)
    supernet.to(device())
    return supernet


def fill(supernet: Supernet, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Load weights that were read from the path. Raises ValueError where they are another version's."""
    try:
        supernet.load_state_dict(weights)
    except RuntimeError as error:
        raise _of_another_version(path) from error


def _of_another_version(path: str | Path) -> ValueError:
    return ValueError(f"{path} was written by another version of Milonga; train again")
