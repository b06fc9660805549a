"""Decode, scale and describe pictures in the same way everywhere, so that training and serving never differ.

Needs numpy and Pillow: `pip install milonga-protos[pictures]`. The hub and the agent both do.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# (low, high, bins) of every histogram that a device sends. Edges are fixed so that windows of all devices add up.
BINS: Mapping[str, tuple[float, float, int]] = {
    "confidence": (0.0, 1.0, 20),
    "brightness": (0.0, 1.0, 20),
    "contrast": (0.0, 1.0, 20),
    "sharpness": (0.0, 1.0, 20),
    "chroma": (0.0, 1.0, 20),
    "warmth": (0.0, 1.0, 20),
    # log2 of a side in pixels, half an octave each: 16 pixels to 16,384.
    "size": (4.0, 14.0, 20),
    # 10 microseconds to 100 seconds.
    "log10_latency_ms": (-2.0, 5.0, 140),
}

# What is held against the pictures that a network learned from.
INPUT_STATISTICS = ("brightness", "contrast", "sharpness", "chroma", "warmth")
# What devices send: the size as well, which says what a camera is set to. Networks learn from pictures of one size.
INPUTS = (*INPUT_STATISTICS, "size")
# What "statistics_of" of a manifest says whose reference has those of the pictures as the network sees them; earlier hubs had them of other sizes.
OF_INPUTS = "inputs"

# A picture of 64 megapixels needs 192 MB once decoded; small devices would not survive more.
MAX_PIXELS = 64_000_000
_LOOK_AREAS = 8
# Colours are looked at from so far that a shorter side is about so many pixels: alike for a picture and for a smaller copy of it.
_COLOUR_SIDE = 32
# The EXIF tag by which cameras say how they were held.
_ORIENTATION = 0x0112


class PictureError(ValueError):
    """The bytes are not a picture that can be used; the message says why."""


def decode(data: bytes) -> Image.Image:
    """Return the picture as RGB and upright, whatever its own mode; transparency is laid on black.

    Raises PictureError for anything that is not a whole, sane picture.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(
                    f"the picture has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are taken"
                )
            image.load()
            if image.getexif().get(_ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
    except PictureError:
        raise
    # The first names an object of this program; the other is what Pillow's plug-ins say of formats that nobody added.
    except (UnidentifiedImageError, ImportError) as error:
        raise PictureError("not a picture that can be read: it is of no known format") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError and more.
        raise PictureError(f"not a picture that can be read: {error}") from error
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        flat = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(flat, layered).convert("RGB")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _narrowed(image).convert("RGB")
    return image.convert("RGB")


def _narrowed(image: Image.Image) -> Image.Image:
    """Return a picture of wide numbers in 8 bits: their range, which no file says, is the least of 1 (of fractions), 255 and 65535."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max()) if values.size else 0.0
    ranges = (1.0, 255.0) if image.mode == "F" else (255.0,)
    white = next((each for each in ranges if top <= each), 65535.0)
    return Image.fromarray(np.clip(values * (255.0 / white), 0, 255).astype(np.uint8))


def to_array(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Return the picture stretched to a square as uint8 (3, size_px, size_px)."""
    if image.size != (size_px, size_px):
        image = image.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1))


def scaled(pictures: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Return pictures uint8 (n, 3, H, W) stretched to (n, 3, size_px, size_px), each as `to_array` does it."""
    if pictures.shape[2:] == (size_px, size_px):
        return pictures
    images = (Image.fromarray(picture.transpose(1, 2, 0)) for picture in pictures)
    return np.stack([to_array(image, size_px) for image in images])


def normalise(pictures: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return float32 (n, 3, H, W) from uint8 (n, 3, H, W); mean and std are per channel on the scale 0 to 1."""
    centre = np.asarray(mean, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255.0)
    spread = np.asarray(std, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255.0)
    return np.asarray((pictures.astype(np.float32) - centre) / spread, dtype=np.float32)


def statistics(image: Image.Image) -> dict[str, float]:
    """Return what a picture looks like in five numbers from 0 to 1.

    brightness is the mean of the luma, contrast twice its standard deviation, sharpness 1 - exp(-4 * mean |gradient|)
    of the luma between neighbours (0 for a flat picture). chroma is the mean of how far the strongest of red, green and blue
    is from the weakest (0 for shades of grey), warmth half of how far red is from blue, from 0.5 on (as light bulbs are from daylight).
    """
    luma = np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255.0)
    steps = [np.abs(np.diff(luma, axis=axis)).mean() for axis in (0, 1) if luma.shape[axis] > 1]
    gradient = float(np.mean(steps)) if steps else 0.0
    return {
        "brightness": float(luma.mean()),
        "contrast": min(1.0, 2.0 * float(luma.std())),
        "sharpness": 1.0 - math.exp(-4.0 * gradient),
        **_colours(image),
    }


def _colours(image: Image.Image) -> dict[str, float]:
    small = image.convert("RGB").reduce(max(1, min(image.size) // _COLOUR_SIDE))
    colours = np.asarray(small, dtype=np.float32) / np.float32(255.0)
    red, _, blue = (float(mean) for mean in colours.mean(axis=(0, 1)))
    return {
        "chroma": float((colours.max(axis=2) - colours.min(axis=2)).mean()),
        "warmth": 0.5 + (red - blue) / 2.0,
    }


def size(image: Image.Image) -> float:
    """Return log2 of a picture's side in pixels; of one that is no square, of the square with as many."""
    return math.log2(image.width * image.height) / 2.0


def look(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a picture uint8 (3, H, W), of 8 by 8 pixels or more, looks like from afar: (192,), each 0 to 1.

    The means of 8 by 8 areas in three colours; pictures that look alike lie near each other.
    """
    found: NDArray[np.floating] = picture.astype(np.float32)
    for axis in (1, 2):
        starts = np.arange(_LOOK_AREAS) * found.shape[axis] // _LOOK_AREAS
        widths = np.diff([*starts, found.shape[axis]]).astype(np.float32)
        found = np.add.reduceat(found, starts, axis=axis) / (widths[:, None] if axis == 1 else widths)
    return np.asarray(found.reshape(-1) / np.float32(255.0), dtype=np.float32)


def reference(images: Iterable[Image.Image]) -> dict[str, list[int]]:
    """Return the histograms of what pictures look like, by name; devices are compared with those of known pictures."""
    seen = [statistics(image) for image in images]
    return {name: histogram(name, [one[name] for one in seen]) for name in INPUT_STATISTICS}


def histogram(name: str, values: Sequence[float]) -> list[int]:
    """Return how many values fall into each fixed bin of BINS[name]; those outside go to the first or last bin."""
    low, high, count = BINS[name]
    scaled = (np.asarray(values, dtype=np.float64) - low) / (high - low) * count
    scaled = scaled[np.isfinite(scaled)]
    return [int(n) for n in np.bincount(np.clip(scaled.astype(np.int64), 0, count - 1), minlength=count)]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities (n, c) of logits (n, c)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)
