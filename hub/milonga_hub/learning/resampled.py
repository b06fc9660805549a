"""Average precision of pictures that are drawn again and again: how sure a difference between two detectors is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# COCO's grid of recalls, over which precision is averaged by trapezoids.
_RECALLS = np.linspace(0.0, 1.0, 101)
_SHARES = np.full(101, 0.01)
_SHARES[[0, -1]] = 0.005

#: Of one picture: right by overlap (m, overlaps), confidence (m,), class (m,), classes of its objects (k,).
Picture = tuple[NDArray[np.bool_], NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]


@dataclass(frozen=True)
class _Class:
    """What was found of one class in all pictures, the surest first."""

    # Of each box (m,): its picture.
    pictures: NDArray[np.intp]
    # For each overlap: which boxes are right, and of which pictures they are.
    right: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]
    # Objects in each picture (pictures,).
    objects: NDArray[np.int64]

    def precision(self, weights: NDArray[np.int64]) -> float | None:
        """Return the mean over all overlaps, None where no picture with weight shows an object of the class."""
        objects = int(self.objects @ weights)
        if not objects:
            return None
        told = np.cumsum(weights[self.pictures])
        return float(np.mean([self._at(told, places, weights[of], objects) for places, of in self.right]))

    @staticmethod
    def _at(told: NDArray[np.int64], places: NDArray[np.intp], weights: NDArray[np.int64], objects: int) -> float:
        if not len(places):
            return 0.0
        right = np.cumsum(weights)
        # The envelope: the best precision at this recall or a higher one. It changes at right boxes alone.
        best = np.maximum.accumulate((right / np.maximum(told[places], 1))[::-1])[::-1]
        reached = np.searchsorted(right / objects, _RECALLS, side="right")
        return float(_SHARES @ np.append(best, 0.0)[reached])


class Precisions:
    """mAP over pictures with weights: a picture with weight 2 counts as if it were there twice."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        right, confidences, classes, objects = (np.concatenate(parts) for parts in zip(*pictures, strict=True))
        of = np.repeat(np.arange(len(pictures)), [len(picture[1]) for picture in pictures])
        shown = np.repeat(np.arange(len(pictures)), [len(picture[3]) for picture in pictures])
        order = np.argsort(-confidences, kind="stable")
        right, classes, of = right[order], classes[order], of[order]
        self._classes = []
        for number in np.unique(objects):
            own = classes == number
            places = [np.flatnonzero(overlap) for overlap in right[own].T]
            counts = np.bincount(shown[objects == number], minlength=len(pictures))
            self._classes.append(_Class(of[own], [(each, of[own][each]) for each in places], counts))

    def mean(self, weights: NDArray[np.int64]) -> float:
        """Return what ultralytics' `ap_per_class` makes of so many of each picture (pictures,), 0 where no object is shown."""
        found = [each for each in (one.precision(weights) for one in self._classes) if each is not None]
        return float(np.mean(found)) if found else 0.0


def gains(
    challenger: Precisions, champion: Precisions, pictures: int, times: int, seed: int = 0
) -> NDArray[np.float64]:
    """Return by how much the challenger is better (times,), each on as many pictures as there are, drawn with replacement.

    The paired bootstrap (Efron and Tibshirani 1993, chapter 16): both are asked about the same pictures each time.
    """
    source = np.random.default_rng(seed)
    drawn = (np.bincount(source.integers(pictures, size=pictures), minlength=pictures) for _ in range(times))
    return np.array([challenger.mean(weights) - champion.mean(weights) for weights in drawn])
