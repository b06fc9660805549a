"""Average precision of weighted pictures, and how sure a gain is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics
from milonga_hub.learning.resampled import Picture, Precisions, gains

# isort: split
from ultralytics.utils.metrics import ap_per_class


def _pictures(seed: int, count: int, most: int = 8, classes: int = 3) -> list[Picture]:
    """Return pictures of which boxes are the more often right the surer they are; some boxes are of a class that is nowhere."""
    source = np.random.default_rng(seed)
    made: list[Picture] = []
    for _ in range(count):
        boxes = int(source.integers(most + 1))
        confidences = source.random(boxes).astype(np.float32)
        best = np.where(source.random(boxes) < confidences, source.integers(1, 11, size=boxes), 0)
        found = source.integers(classes + 1, size=boxes).astype(np.float32)
        objects = source.integers(classes, size=source.integers(1, 5)).astype(np.float32)
        made.append((np.arange(10) < best[:, None], confidences, found, objects))
    return made


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_a_picture_with_a_weight_counts_as_if_it_were_there_so_often(seed: int, count: int) -> None:
    pictures = _pictures(seed, count)
    drawn = np.random.default_rng(seed).integers(count, size=count)
    right, confidences, found, objects = (
        np.concatenate(parts) for parts in zip(*(pictures[one] for one in drawn), strict=True)
    )
    theirs = ap_per_class(right, confidences, found, objects)[5].mean() if right.any() else 0.0
    assert Precisions(pictures).mean(np.bincount(drawn, minlength=count)) == pytest.approx(float(theirs), abs=1e-9)


def test_pictures_without_objects_have_no_precision() -> None:
    none = np.zeros(0, dtype=np.float32)
    assert Precisions([(np.zeros((0, 10), dtype=bool), none, none, none)]).mean(np.array([1])) == 0.0


def test_gains_are_of_the_same_pictures_and_the_same_every_time() -> None:
    pictures = _pictures(0, 60)
    worse = [(right & (np.arange(10) < 5), sure, found, shown) for right, sure, found, shown in pictures]
    champion, challenger = Precisions(worse), Precisions(pictures)
    gained = gains(challenger, champion, len(pictures), 50)
    # One that finds boxes in their places better is never worse, whatever pictures are drawn.
    assert (gained > 0).all()
    assert (gains(challenger, champion, len(pictures), 50) == gained).all()
    assert (gains(champion, champion, len(pictures), 50) == 0).all()
    whole = np.ones(len(pictures), dtype=np.int64)
    assert gained.mean() == pytest.approx(challenger.mean(whole) - champion.mean(whole), abs=0.03)
