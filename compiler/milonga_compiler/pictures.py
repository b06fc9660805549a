"""Read pictures to calibrate on and to prove a build with: a folder of picture files, or arrays in an npz file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends.base import Floats
from milonga_compiler.errors import PicturesUnusable

# The grey that ultralytics pads with.
_PAD = 114
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class Scaling:
    """How pictures become inputs: brought to `size_px`, then (x / 255 - mean) / std for each of three channels.

    With `letterbox` they keep their proportions and are padded with grey, as milonga.inputs has it; else they are stretched.
    """

    size_px: int
    mean: Sequence[float]
    std: Sequence[float]
    letterbox: bool = False

    def normalise(self, pictures: NDArray[np.uint8]) -> Floats:
        """Return float32 (n, 3, H, W) of uint8 (n, 3, H, W), by the same arithmetic as milonga.pictures.normalise."""
        centre = np.asarray(self.mean, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255.0)
        spread = np.asarray(self.std, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255.0)
        return np.asarray((pictures.astype(np.float32) - centre) / spread, dtype=np.float32)


@dataclass(frozen=True)
class Pictures:
    """Normalised pictures (n, 3, H, W); labels (n,) where they are known, as indices into `classes`."""

    inputs: Floats
    labels: NDArray[np.int64] | None
    classes: list[str]


def load_pictures(path: Path, scaling: Scaling) -> Pictures:
    """Return the pictures of a folder (sub-folders name classes) or of an npz file (x, and y where labels are known).

    In an npz file, x is uint8 (n, 3, H, W), or float32 where it is normalised already. Raises PicturesUnusable.
    """
    demand_pictures(path)
    return _of_folder(path, scaling) if path.is_dir() else _of_arrays(path, scaling)


def demand_pictures(path: Path) -> None:
    """Raise PicturesUnusable where there are plainly none; none is opened."""
    if not path.exists():
        raise PicturesUnusable(f"{path} is missing; name a folder of pictures, or an npz file")
    if path.is_dir() and not _files(path):
        raise PicturesUnusable(f"{path} holds no pictures ({', '.join(_SUFFIXES)}); name a folder that does")
    if path.is_file() and not is_zipfile(str(path)):
        raise PicturesUnusable(
            f"{path} is no npz file; name a folder of pictures, or write one: numpy.savez('pictures.npz', x=pictures)"
        )


def class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the sub-folders that hold pictures; none for an npz file, or where pictures lie beside folders."""
    found = {file.parent for file in _files(path)} if path.is_dir() else set()
    return () if path in found else tuple(sorted({folder.name for folder in found}))


def _of_folder(folder: Path, scaling: Scaling) -> Pictures:
    files = _files(folder)
    pictures = scaling.normalise(np.stack([_decoded(path, scaling) for path in files]))
    named = [path.parent.name if path.parent != folder else None for path in files]
    classes = sorted({name for name in named if name is not None})
    if None in named:
        return Pictures(pictures, None, [])
    labels = np.array([classes.index(str(name)) for name in named], dtype=np.int64)
    return Pictures(pictures, labels, classes)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _of_arrays(path: Path, scaling: Scaling) -> Pictures:
    try:
        with np.load(str(path)) as arrays:
            x = arrays["x"]
            labels = arrays["y"].astype(np.int64) if "y" in arrays else None
    except (OSError, KeyError, ValueError) as error:
        raise PicturesUnusable(f"{path} is no npz file with an array x (n, 3, H, W): {error}") from error
    if x.ndim != 4 or x.shape[1] != 3 or not len(x) or (labels is not None and labels.shape != (len(x),)):
        raise PicturesUnusable(f"{path} has x of shape {x.shape}; (n, 3, H, W) is needed, and y of (n,) if any")
    pictures = scaling.normalise(x) if x.dtype == np.uint8 else x.astype(np.float32)
    return Pictures(pictures, labels, [])


def _decoded(path: Path, scaling: Scaling) -> NDArray[np.uint8]:
    image_module = _pillow()
    try:
        with image_module.open(str(path)) as image:
            return _placed(image.convert("RGB"), scaling, image_module.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError) as error:
        raise PicturesUnusable(f"{path} is not a picture that can be read; take it out: {error}") from error


def _placed(image: Any, scaling: Scaling, smooth: Any) -> NDArray[np.uint8]:
    """Return the picture as uint8 (3, size_px, size_px)."""
    size_px = scaling.size_px
    width = height = size_px
    if scaling.letterbox:
        ratio = size_px / max(image.size)
        width, height = (max(1, round(side * ratio)) for side in image.size)
    left, top = (size_px - width) // 2, (size_px - height) // 2
    pixels = np.full((size_px, size_px, 3), _PAD, dtype=np.uint8)
    pixels[top : top + height, left : left + width] = np.asarray(image.resize((width, height), smooth))
    return pixels.transpose(2, 0, 1)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise PicturesUnusable("reading picture files needs Pillow; run: pip install pillow") from error
    return Image
