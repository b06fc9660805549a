"""How pictures become the inputs of a network, the same everywhere: scaled, fitted or stretched, and normalised.

Needs numpy and Pillow: `pip install milonga-protos[pictures]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milonga import pictures, preprocessing

# The grey that ultralytics pads with (data.augment.LetterBox).
PAD = 114


class Resize(str, Enum):
    """STRETCH makes a picture square; LETTERBOX keeps its proportions and pads it, so that boxes keep their shapes."""

    STRETCH = "stretch"
    LETTERBOX = "letterbox"


@dataclass(frozen=True)
class Placement:
    """Where a picture of `width` by `height` lies in a network's input: scaled by x and y, then moved, in pixels."""

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int = 0
    top: int = 0

    def original(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes (n, 4), corners in pixels of the input, in pixels of the picture, cut to it."""
        moved = boxes - np.array([self.left, self.top] * 2, dtype=np.float32)
        scaled = moved / np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)
        most = np.array([self.width, self.height] * 2, dtype=np.float32)
        return np.asarray(np.clip(scaled, 0, most), dtype=np.float32)

    def placed(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes (n, 4), corners in pixels of the picture, in pixels of the input."""
        scaled = boxes * np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)
        return np.asarray(scaled + np.array([self.left, self.top] * 2, dtype=np.float32), dtype=np.float32)


@dataclass(frozen=True)
class Input:
    """What a network takes: squares of `size_px`; mean and std are per channel on the scale 0 to 1.

    `steps` are those of plug-ins that a picture takes before it is placed, in order.
    """

    size_px: int
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    resize: Resize = Resize.STRETCH
    steps: Sequence[str] = ()

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Input:
        """Return what the "input" of a manifest says. Raises KeyError or ValueError for one that says too little."""
        resize = Resize(described.get("resize", Resize.STRETCH.value))
        steps = tuple(str(name) for name in described.get("preprocessing", ()))
        return cls(int(described["size_px"]), described["mean"], described["std"], resize, steps)

    def described(self) -> dict[str, Any]:
        """Return the "input" of a manifest."""
        described = {
            "name": "image",
            "shape": [1, 3, self.size_px, self.size_px],
            "dtype": "float32",
            "mean": list(self.mean),
            "std": list(self.std),
            "size_px": self.size_px,
            "resize": self.resize.value,
        }
        return {**described, "preprocessing": list(self.steps)} if self.steps else described

    def prepared(self, image: Image.Image) -> Image.Image:
        """Return the picture after its steps. Raises ValueError naming the one that fails or that no plug-in here brings."""
        return preprocessing.prepared(image, self.steps)

    def placement(self, width: int, height: int) -> Placement:
        """Return where a picture of this size lies."""
        if self.resize is Resize.STRETCH:
            return Placement(width, height, self.size_px / width, self.size_px / height)
        fitted = fitted_size(width, height, self.size_px)
        left, top = ((self.size_px - side) // 2 for side in fitted)
        return Placement(width, height, fitted[0] / width, fitted[1] / height, left, top)

    def place(self, image: Image.Image) -> tuple[NDArray[np.uint8], Placement]:
        """Return the picture as uint8 (3, size_px, size_px), and where it lies in there."""
        placement = self.placement(*image.size)
        if self.resize is Resize.STRETCH:
            return pictures.to_array(image, self.size_px), placement
        width, height = fitted_size(*image.size, self.size_px)
        found = np.full((3, self.size_px, self.size_px), PAD, dtype=np.uint8)
        inside = scaled(image, (width, height)).transpose(2, 0, 1)
        found[:, placement.top : placement.top + height, placement.left : placement.left + width] = inside
        return found, placement

    def shown(self, placed: NDArray[np.uint8], placement: Placement) -> Image.Image:
        """Return the picture as the network sees it: what `place` made of it, without what it was padded with."""
        if self.resize is Resize.LETTERBOX:
            width, height = fitted_size(placement.width, placement.height, self.size_px)
            placed = placed[:, placement.top : placement.top + height, placement.left : placement.left + width]
        return Image.fromarray(np.ascontiguousarray(placed.transpose(1, 2, 0)))

    def normalise(self, arrays: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (n, 3, H, W) from uint8 (n, 3, H, W)."""
        return pictures.normalise(arrays, self.mean, self.std)


def fitted_size(width: int, height: int, size_px: int) -> tuple[int, int]:
    """Return the width and height of a picture whose longer side is brought to `size_px`."""
    ratio = size_px / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def scaled(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the picture in this width and height as uint8 (height, width, 3), smoothed where it shrinks."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
