"""Pictures as tensors, and how a training step sees them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from milonga import pictures as milonga_pictures
from numpy.typing import NDArray
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
    #: The validation pictures as uint8 (n, 3, H, W).
    raw_val: NDArray[np.uint8]
    #: Which version of the data set brought each training picture (n,).
    added_train: NDArray[np.int64]
    _scaled: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def calibration(self) -> list[Tensor]:
        """Batches of training pictures to estimate batch statistics on, the same ones every time."""
        chosen = torch.randperm(len(self.x_train), generator=torch.Generator().manual_seed(0))[:_CALIBRATION_COUNT]
        return list(self.x_train[chosen].split(_CALIBRATION_BATCH))

    def newest(self) -> Data | None:
        """Return the data with the training pictures that the newest version brought alone; None where there is one."""
        rows = np.flatnonzero(self.added_train == self.added_train.max())
        if len(rows) in (0, 1, len(self.added_train)):
            return None
        chosen = torch.from_numpy(rows)
        return replace(
            self, x_train=self.x_train[chosen], y_train=self.y_train[chosen], added_train=self.added_train[rows]
        )

    def validation(self, resolution_px: int) -> Tensor:
        """Return the validation pictures at this resolution, scaled as devices scale them."""
        if resolution_px == self.raw_val.shape[-1]:
            return self.x_val
        if resolution_px not in self._scaled:
            scaled = milonga_pictures.scaled(self.raw_val, resolution_px)
            self._scaled[resolution_px] = _normalised(scaled, self.mean, self.std)
        return self._scaled[resolution_px]


def load(path: str | Path) -> Data:
    """Return the pictures of an npz file, normalised by the statistics of its training split."""
    with np.load(path) as arrays:
        train, validation = arrays["x_train"], arrays["x_val"]
        y_train, y_val = arrays["y_train"], arrays["y_val"]
        classes = len(arrays["classes"])
        added = arrays["added_train"].astype(np.int64)
    values = train.astype(np.float64) / 255.0
    mean = [float(value) for value in values.mean(axis=(0, 2, 3))]
    std = [float(value) for value in np.maximum(values.std(axis=(0, 2, 3)), 1e-3)]
    return Data(
        _normalised(train, mean, std),
        torch.from_numpy(y_train).long(),
        _normalised(validation, mean, std),
        torch.from_numpy(y_val).long(),
        mean,
        std,
        classes,
        validation,
        added,
    )


def _normalised(images: NDArray[np.uint8], mean: list[float], std: list[float]) -> Tensor:
    return torch.from_numpy(milonga_pictures.normalise(images, mean, std))


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
