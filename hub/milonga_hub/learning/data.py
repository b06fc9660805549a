"""Pictures as tensors, and how a training step sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from milonga import pictures as milonga_pictures
from numpy.typing import NDArray
from torch import Tensor

from milonga_hub.learning.held_back import held_back

# Enough pictures for stable batch statistics; more only cost time.
_CALIBRATION_COUNT = 512
_CALIBRATION_BATCH = 128
# Cameras are knocked by less than this; digits and arrows change their meaning beyond.
_MAX_TURN_DEGREES = 10.0
_MAX_SHIFT = 0.08
_MAX_ZOOM = 0.1


@dataclass(frozen=True)
class Data:
    """Normalised pictures float32 (n, 3, H, W) to train on, and labels (n,), in two splits; mean and std per channel, 0 to 1 scale."""

    x_train: Tensor
    y_train: Tensor
    y_val: Tensor
    mean: list[float]
    std: list[float]
    names: tuple[str, ...]
    #: The pictures as uint8 (n, 3, H, W).
    raw_train: NDArray[np.uint8]
    raw_val: NDArray[np.uint8]
    #: Which version of the data set brought each picture (n,).
    added_train: NDArray[np.int64]
    added_val: NDArray[np.int64]
    #: Which validation pictures (n,) judge versions alone.
    held_back: NDArray[np.bool_]
    #: What plug-ins did with every picture before.
    steps: tuple[str, ...] = ()

    @property
    def calibration(self) -> list[Tensor]:
        """Batches of training pictures to estimate batch statistics on, the same ones every time."""
        chosen = torch.randperm(len(self.x_train), generator=torch.Generator().manual_seed(0))[:_CALIBRATION_COUNT]
        return list(self.x_train[chosen].split(_CALIBRATION_BATCH))

    def newest(self, learned: int = 0) -> Data | None:
        """Return the data with the training pictures alone that are new; None where there are none, one or no others."""
        rows = np.flatnonzero(is_new(self.added_train, learned))
        if len(rows) in (0, 1, len(self.added_train)):
            return None
        chosen = torch.from_numpy(rows)
        return replace(
            self,
            x_train=self.x_train[chosen],
            y_train=self.y_train[chosen],
            raw_train=self.raw_train[rows],
            added_train=self.added_train[rows],
        )


def is_new(added: NDArray[np.int64], learned: int) -> NDArray[np.bool_]:
    """Return which pictures came after the data set's version of this number; where it is 0, with the newest of all."""
    return added > (learned or int(added.max(initial=1)) - 1)


def load(path: str | Path) -> Data:
    """Return the pictures of an npz file, normalised by the statistics of its training split."""
    with np.load(path) as arrays:
        train, validation = arrays["x_train"], arrays["x_val"]
        labels = {split: torch.from_numpy(arrays[f"y_{split}"]).long() for split in ("train", "val")}
        added = {split: arrays[f"added_{split}"].astype(np.int64) for split in ("train", "val")}
        names = tuple(str(name) for name in arrays["classes"])
        # Files of earlier versions have no digests.
        digests = [str(one) for one in arrays["digests_val"]] if "digests_val" in arrays else [""] * len(validation)
        steps = tuple(str(name) for name in arrays["steps"]) if "steps" in arrays else ()
    values = train.astype(np.float64) / 255.0
    mean = [float(value) for value in values.mean(axis=(0, 2, 3))]
    std = [float(value) for value in np.maximum(values.std(axis=(0, 2, 3)), 1e-3)]
    return Data(
        x_train=torch.from_numpy(milonga_pictures.normalise(train, mean, std)),
        y_train=labels["train"],
        y_val=labels["val"],
        mean=mean,
        std=std,
        names=names,
        raw_train=train,
        raw_val=validation,
        added_train=added["train"],
        added_val=added["val"],
        held_back=held_back(digests, len(names)),
        steps=steps,
    )


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (n, 3, H, W) each turned, shifted and zoomed a little; edges are repeated. None are mirrored."""
    count = len(pictures)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = torch.deg2rad(uniform(_MAX_TURN_DEGREES))
    zoom = 1 + uniform(_MAX_ZOOM)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift_x, shift_y = uniform(2 * _MAX_SHIFT), uniform(2 * _MAX_SHIFT)
    rows = [torch.stack([cosine, -sine, shift_x], dim=1), torch.stack([sine, cosine, shift_y], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
