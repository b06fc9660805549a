"""Pictures as tensors, and how a training step sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Enough pictures for stable batch statistics; more only cost time.
_CALIBRATION_COUNT = 512
_CALIBRATION_BATCH = 128
# Cameras are knocked by less than this; digits and arrows change their meaning beyond.
_MAX_TURN_DEGREES = 10.0
_MAX_SHIFT = 0.08
_MAX_ZOOM = 0.1


@dataclass(frozen=True)
class Data:
    """Normalised pictures float32 (n, 3, H, W) and labels (n,), in two splits; mean and std per channel, 0 to 1 scale."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    mean: list[float]
    std: list[float]
    classes: int

    @property
    def calibration(self) -> list[Tensor]:
        """Batches of training pictures to estimate batch statistics on, the same ones every time."""
        chosen = torch.randperm(len(self.x_train), generator=torch.Generator().manual_seed(0))[:_CALIBRATION_COUNT]
        return list(self.x_train[chosen].split(_CALIBRATION_BATCH))


def load(path: str | Path) -> Data:
    """Return the pictures of an npz file, normalised by the statistics of its training split."""
    with np.load(path) as arrays:
        train, validation = arrays["x_train"], arrays["x_val"]
        y_train, y_val = arrays["y_train"], arrays["y_val"]
        classes = len(arrays["classes"])
    values = train.astype(np.float64) / 255.0
    mean = values.mean(axis=(0, 2, 3))
    std = np.maximum(values.std(axis=(0, 2, 3)), 1e-3)

    def tensor(images: np.ndarray) -> Tensor:
        # Equal to milonga.pictures.normalise, which serving uses; a test compares the two.
        centre = torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1) * 255.0
        spread = torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1) * 255.0
        return (torch.from_numpy(images).float() - centre) / spread

    return Data(
        tensor(train),
        torch.from_numpy(y_train).long(),
        tensor(validation),
        torch.from_numpy(y_val).long(),
        [float(value) for value in mean],
        [float(value) for value in std],
        classes,
    )


def batches(data: Data, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented batches of the training split; a rest of one picture is left out."""
    order = torch.randperm(len(data.x_train), generator=generator)
    for chosen in order.split(size):
        if len(chosen) > 1:
            yield augment(data.x_train[chosen], generator), data.y_train[chosen]


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
