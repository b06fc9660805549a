"""scikit-learn's bundled handwritten digits, as a user would have them: pictures in class folders, and a world that
turns."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

PICTURE_PX = 32


@dataclass(frozen=True)
class Picture:
    """One encoded picture and what it shows."""

    png: bytes
    label: str


@dataclass(frozen=True)
class Digits:
    """Three disjoint parts of the 1,797 digits: to learn from, to label later, and to meet in the field."""

    known: list[Picture]
    later: list[Picture]
    live: list[Picture]


def load(known: int = 1000, later: int = 497, live: int = 300, seed: int = 0) -> Digits:
    """Return the parts, shuffled by the seed; those for later are drifted already."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.images))
    pictures = [(_upright(digits.images[index]), str(digits.target[index])) for index in order]
    taken = [pictures[:known], pictures[known : known + later], pictures[known + later : known + later + live]]
    plain = [[Picture(_png(image), label) for image, label in part] for part in taken]
    return Digits(known=plain[0], later=drifted(plain[1], seed=seed + 1), live=plain[2])


def drifted(pictures: list[Picture], seed: int) -> list[Picture]:
    """Return the pictures as a camera would send them that was knocked askew and whose sensor got noisy."""
    random = np.random.default_rng(seed)
    turned = []
    for picture in pictures:
        image = Image.open(io.BytesIO(picture.png)).convert("L")
        turn = image.rotate(float(random.uniform(20, 40)), resample=Image.Resampling.BILINEAR)
        values = np.asarray(turn, dtype=np.float64) * 0.8 + random.normal(30, 16, (PICTURE_PX, PICTURE_PX))
        turned.append(Picture(_png(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))), picture.label))
    return turned


def write(pictures: list[Picture], folder: Path) -> Path:
    """Write the pictures into class folders and return the folder."""
    for index, picture in enumerate(pictures):
        (folder / picture.label).mkdir(parents=True, exist_ok=True)
        (folder / picture.label / f"{index:04}.png").write_bytes(picture.png)
    return folder


def _upright(values: np.ndarray) -> Image.Image:
    # The bundled digits are 8 x 8 with values of 0 to 16.
    image = Image.fromarray((values * (255.0 / 16.0)).astype(np.uint8))
    return image.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
