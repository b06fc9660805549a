"""A small detection data set made of real pictures: scikit-learn's handwritten digits on scikit-image's photographs."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

# What scikit-image's wheel carries; nothing is downloaded.
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "brick", "grass", "gravel", "camera")
_MOST_DIGITS = 4
# A digit's side as a share of the picture's.
_SIDES = (0.18, 0.42)
# Clearly darker or clearly brighter than the photograph below.
_CONTRAST = 110


def write(folder: Path, train: int, val: int, seed: int, size_px: int, classes: int = 10) -> Path:
    """Write a data set in YOLO's format and return the path of its data.yaml.

    Pictures are PNG files (size_px squared) with one to four digits of the first `classes`. Digits and corners of
    photographs differ between the splits: validation takes the last quarter of the digits.
    """
    source = random.Random(seed)
    digits, labels = _digits()
    border = len(digits) * 3 // 4
    pools = {"train": range(border), "val": range(border, len(digits))}
    for split, count in (("train", train), ("val", val)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        pool = [index for index in pools[split] if labels[index] < classes]
        for number in range(count):
            picture, rows = _scene(source, digits, labels, pool, size_px)
            Image.fromarray(picture).save(folder / "images" / split / f"{number:05}.png")
            (folder / "labels" / split / f"{number:05}.txt").write_text("".join(f"{row}\n" for row in rows))
    described = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val"}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({**described, "names": {index: f"digit {index}" for index in range(classes)}}))
    return path


@lru_cache
def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images / 16.0, found.target


@lru_cache
def _photographs() -> tuple[NDArray[np.uint8], ...]:
    from skimage import data

    found = []
    for name in _PHOTOGRAPHS:
        picture = np.asarray(getattr(data, name)())
        found.append(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))
    return tuple(found)


def _scene(
    source: random.Random, digits: NDArray[Any], labels: NDArray[Any], pool: list[int], size_px: int
) -> tuple[NDArray[np.uint8], list[str]]:
    picture = _background(source, size_px)
    taken: list[tuple[int, int, int, int]] = []
    rows = []
    for _ in range(source.randint(1, _MOST_DIGITS)):
        side = round(size_px * source.uniform(*_SIDES))
        left, top = source.randrange(size_px - side), source.randrange(size_px - side)
        box = (left, top, left + side, top + side)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        index = source.choice(pool)
        ink = (
            np.asarray(
                Image.fromarray((digits[index] * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
            )
            / 255.0
        )
        _paste(picture, ink, box)
        taken.append(box)
        seen = np.argwhere(ink > 0.3)
        (y1, x1), (y2, x2) = seen.min(axis=0), seen.max(axis=0) + 1
        values = ((2 * left + x1 + x2) / 2, (2 * top + y1 + y2) / 2, x2 - x1, y2 - y1)
        rows.append(" ".join([str(int(labels[index])), *(f"{value / size_px:.6f}" for value in values)]))
    return picture, rows


def _background(source: random.Random, size_px: int) -> NDArray[np.uint8]:
    photograph = source.choice(_photographs())
    height, width = photograph.shape[:2]
    side = source.randint(min(size_px, height, width), min(height, width))
    left, top = source.randint(0, width - side), source.randint(0, height - side)
    corner = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.array(corner.resize((size_px, size_px), Image.Resampling.BILINEAR))


def _paste(picture: NDArray[np.uint8], ink: NDArray[Any], box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    below = picture[top:bottom, left:right].astype(float)
    mean = below.mean()
    colour = max(0.0, mean - _CONTRAST) if mean > 127 else min(255.0, mean + _CONTRAST)
    picture[top:bottom, left:right] = (below * (1 - ink[..., None]) + colour * ink[..., None]).astype(np.uint8)
