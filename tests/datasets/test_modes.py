"""Pictures come in every mode that files have, and look the same to a network."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from milonga import pictures
from numpy.typing import NDArray
from PIL import Image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = Image.fromarray(RAMP)
# Six: it was held by its side, and the first column is what should be the first row.
HELD_BY_ITS_SIDE = {0x0112: 6}


def _decoded(image: Image.Image, format_: str, **settings: Any) -> NDArray[np.int16]:
    buffer = io.BytesIO()
    image.save(buffer, format_, **settings)
    decoded = pictures.decode(buffer.getvalue())
    assert decoded.mode == "RGB"
    return np.asarray(decoded).astype(np.int16)


@pytest.mark.parametrize(
    ("image", "format_"),
    [
        (GREY, "PNG"),
        (GREY.convert("P"), "PNG"),
        (GREY.convert("LA"), "PNG"),
        (GREY.convert("RGBA"), "PNG"),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
        (Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"),
        (Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        (Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
        (GREY.convert("RGB").convert("CMYK"), "TIFF"),
        (GREY, "GIF"),
        (GREY, "BMP"),
        (GREY, "WEBP"),
    ],
    ids=lambda given: given.mode if isinstance(given, Image.Image) else given,
)
def test_a_picture_looks_the_same_in_every_mode(image: Image.Image, format_: str) -> None:
    settings = {"lossless": True} if format_ == "WEBP" else {}
    assert np.abs(_decoded(image, format_, **settings) - RAMP[..., None]).max() <= 1


def test_a_cmyk_jpeg_is_no_negative() -> None:
    """JPEG loses some, and Adobe's programs write these inverted."""
    found = _decoded(GREY.convert("RGB").convert("CMYK"), "JPEG", quality=95)
    assert np.abs(found - RAMP[..., None]).mean() < 3


def test_what_is_no_number_is_black() -> None:
    values = RAMP.astype(np.float32) / 255
    values[0, 0], values[0, 1] = np.nan, np.inf
    assert _decoded(Image.fromarray(values), "TIFF")[..., 0].ravel()[[0, 1, 255]].tolist() == [0, 0, 255]


def test_a_camera_that_was_held_by_its_side_took_an_upright_picture() -> None:
    exif = Image.Exif()
    exif.update(HELD_BY_ITS_SIDE)
    assert np.array_equal(_decoded(GREY, "PNG", exif=exif)[..., 0], np.rot90(RAMP, -1))
