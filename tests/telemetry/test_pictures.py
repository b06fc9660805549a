"""What devices tell of their pictures: how they look, as validation pictures do, and how large they came."""

from __future__ import annotations

import numpy as np
import pytest
from milonga import pictures
from PIL import Image


def _flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize(
    ("colour", "chroma", "warmth"),
    [
        ((0, 0, 0), 0.0, 0.5),
        ((180, 180, 180), 0.0, 0.5),
        ((255, 0, 0), 1.0, 1.0),
        ((0, 0, 255), 1.0, 0.0),
        ((0, 255, 0), 1.0, 0.5),
        ((204, 153, 102), 0.4, 0.7),
    ],
)
def test_colours_are_how_far_from_grey_and_how_far_red_from_blue(
    colour: tuple[int, int, int], chroma: float, warmth: float
) -> None:
    found = pictures.statistics(_flat(colour))
    assert found["chroma"] == pytest.approx(chroma, abs=0.01)
    assert found["warmth"] == pytest.approx(warmth, abs=0.01)


def test_a_picture_without_colours_has_none() -> None:
    found = pictures.statistics(_flat((200, 20, 20)).convert("L"))
    assert (found["chroma"], found["warmth"]) == (0.0, 0.5)


def test_a_large_picture_has_the_colours_of_its_small_copy() -> None:
    random = np.random.default_rng(1)
    scene = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480))
    small = scene.resize((64, 64))
    large, copy = pictures.statistics(scene), pictures.statistics(small)
    for name in ("chroma", "warmth"):
        assert large[name] == pytest.approx(copy[name], abs=0.02)


def test_a_picture_is_as_large_as_the_square_with_as_many_pixels() -> None:
    assert pictures.size(_flat((0, 0, 0), (256, 64))) == pytest.approx(7.0)
    assert sum(pictures.histogram("size", [pictures.size(_flat((0, 0, 0), (1, 1)))])) == 1


def test_validation_pictures_are_a_reference_of_all_that_is_judged() -> None:
    found = pictures.reference([_flat((200, 20, 20)), _flat((20, 20, 200))])
    assert set(found) == set(pictures.INPUT_STATISTICS)
    assert all(sum(counts) == 2 for counts in found.values())


def test_every_statistic_has_its_bins() -> None:
    assert set(pictures.INPUTS) < set(pictures.BINS)
    assert set(pictures.statistics(_flat((1, 2, 3)))) == set(pictures.INPUT_STATISTICS)
