"""Hold a detector's build against the detector itself: which of its boxes the build finds too. With numpy alone.

A detector's output (4 * bins + classes, anchors) is decoded and suppressed as milonga.detections does it on devices; a test
holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends.base import Floats
from milonga_compiler.errors import PicturesUnusable
from milonga_compiler.parity import Evidence, Judge

# Pixels that a cell of each map is wide (Ultralytics YOLO, nn.modules.head.Detect).
STRIDES = (8, 16, 32)
# Which boxes are told: the defaults of ultralytics' predict.
POSTPROCESS = {"score_threshold": 0.25, "iou_threshold": 0.7, "max_boxes": 300}
# Boxes that overlap by half are the same object (PASCAL VOC).
_SAME = 0.5
# Boxes whose scores are near the threshold come and go by rounding: builds that lost nothing told one in ten that the network did not. So those
# count whose odds are three times the threshold's, and they are looked for among all of a third of its odds (docs/adr/0051-boxes-that-are-sure.md).
_MARGIN = 3.0


@dataclass(frozen=True)
class Boxes:
    """Objects in one picture, the surest first: corners (n, 4) in pixels of the input, classes (n,) by number, scores (n,)."""

    corners: Floats
    classes: NDArray[np.int64]
    scores: Floats


def anchor_count(size_px: int) -> int:
    """Return how many anchors a detector has for squares of `size_px`."""
    return sum((size_px // stride) ** 2 for stride in STRIDES)


def find(
    output: Floats,
    classes: int,
    size_px: int,
    iou_threshold: float = POSTPROCESS["iou_threshold"],
    score_threshold: float = POSTPROCESS["score_threshold"],
) -> Boxes:
    """Return the objects in what a detector made of one picture (4 * bins + classes, anchors), those of higher scores alone.

    Of boxes of a class that overlap by more than `iou_threshold`, the surest is kept.
    """
    logits = output[-classes:]
    scores = scores_of(logits.max(axis=0))
    chosen = np.flatnonzero(scores > score_threshold)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    corners = corners_of(output[:-classes][:, chosen], size_px, chosen)
    # Boxes without an area overlap nothing, not even themselves.
    seen = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    chosen, corners = chosen[seen], corners[seen]
    numbers = logits[:, chosen].argmax(axis=0)
    parts = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    kept = [part[_suppressed(corners[part], iou_threshold)] for part in parts]
    places = np.sort(np.concatenate(kept))[: int(POSTPROCESS["max_boxes"])] if kept else np.empty(0, dtype=np.int64)
    return Boxes(corners[places], numbers[places], scores[chosen][places])


def scores_of(logits: Floats) -> Floats:
    """Return scores from 0 to 1."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)


def corners_of(maps: Floats, size_px: int, chosen: NDArray[np.int64] | None = None) -> Floats:
    """Return boxes (n, 4) of maps (4 * bins, n): distances from the middles of their cells to the four sides.

    `chosen` are the anchors of the maps, or all.
    """
    middles, widths = [], []
    for stride in STRIDES:
        along = np.arange(size_px // stride, dtype=np.float32) + np.float32(0.5)
        y, x = np.meshgrid(along, along, indexing="ij")
        middles.append(np.stack([x.ravel(), y.ravel()]))
        widths.append(np.full(x.size, stride, dtype=np.float32))
    middle, width = np.concatenate(middles, axis=1), np.concatenate(widths)
    if chosen is not None:
        middle, width = middle[:, chosen], width[chosen]
    bins = len(maps) // 4
    sides = maps
    if bins > 1:  # A distribution for each side, of which the mean counts.
        logits = maps.reshape(4, bins, -1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        sides = (powers * np.arange(bins, dtype=np.float32).reshape(1, bins, 1)).sum(axis=1) / powers.sum(axis=1)
    return np.asarray((np.concatenate([middle - sides[:2], middle + sides[2:]]) * width).T, dtype=np.float32)


def _suppressed(corners: Floats, iou_threshold: float) -> NDArray[np.int64]:
    """Return the places of boxes, the best first, that no kept box before them overlaps too much."""
    kept, waiting = [], np.arange(len(corners))
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        waiting = waiting[_overlaps(corners[best], corners[waiting]) <= iou_threshold]
    return np.array(kept, dtype=np.int64)


def _overlaps(one: Floats, others: Floats) -> Floats:
    """Return the intersection over union (n,) of a box (4,) with others (n, 4)."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), dtype=np.float32)


def sure_and_seen(score_threshold: float) -> tuple[float, float]:
    """Return the score from which a box counts, and the one from which it is looked for, where devices tell those above a threshold."""
    odds = score_threshold / max(1e-6, 1.0 - score_threshold)
    return tuple(each / (1.0 + each) for each in (odds * _MARGIN, odds / _MARGIN))  # type: ignore[return-value]


def alike(one: Boxes, other: Boxes, sure: float) -> tuple[int, int]:
    """Return how many sure boxes two answers to one picture hold together, and how many of them the other has too.

    The other has a box of the same class that overlaps by half; each stands for one, the sure for each other first, and then
    those that overlap most.
    """
    ours, theirs = one.scores >= sure, other.scores >= sure
    shared = np.array([_overlaps(corners, other.corners) for corners in one.corners]).reshape(len(ours), len(theirs))
    fitting = (shared >= _SAME) & (one.classes[:, None] == other.classes) & (ours[:, None] | theirs)
    rows, columns = np.nonzero(fitting)
    both = ours[rows] & theirs[columns]
    found = 0
    free, free_too = np.ones(len(ours), dtype=bool), np.ones(len(theirs), dtype=bool)
    for index in np.lexsort((-shared[rows, columns], ~both)):
        row, column = rows[index], columns[index]
        if free[row] and free_too[column]:
            free[row] = free_too[column] = False
            found += int(ours[row]) + int(theirs[column])
    return int(ours.sum() + theirs.sum()), found


class Agreement(Judge):
    """Which share of the boxes that a build or the network itself is sure of, in the same pictures, the other has too."""

    measure = "agreement of boxes"

    def __init__(
        self, wanted: list[Boxes], classes: int, size_px: int, iou_threshold: float = POSTPROCESS["iou_threshold"]
    ) -> None:
        """`wanted` are what the network sees in all pictures, in their order."""
        self._wanted, self._classes, self._size_px, self._iou_threshold = wanted, classes, size_px, iou_threshold
        self._sure, self._least = sure_and_seen(POSTPROCESS["score_threshold"])
        self._seen = self._count = self._alike = 0
        self._shape: tuple[int, ...] = ()

    def add(self, outputs: Floats) -> None:
        self._shape = outputs.shape[1:]
        for output in outputs:
            found = find(output, self._classes, self._size_px, self._iou_threshold, self._least)
            count, found_too = alike(self._wanted[self._seen], found, self._sure)
            self._seen += 1
            self._count += count
            self._alike += found_too

    def accuracy(self) -> float:
        return self._alike / self._count if self._count else 1.0

    def entries(self) -> Mapping[str, Any]:
        bins = (self._shape[0] - self._classes) // 4
        described = {"name": "maps", "shape": [1, *self._shape], "bins": bins, "strides": list(STRIDES)}
        told = {**POSTPROCESS, "iou_threshold": self._iou_threshold}
        return {"output": {**described, "activation": "sigmoid"}, "postprocess": told}


@dataclass(frozen=True)
class Detected(Evidence):
    """Evidence on a detector: normalised pictures (n, 3, H, W) and its own outputs (n, 4 * bins + classes, anchors).

    Of boxes that overlap by more than `iou_threshold` devices tell the surest; 1 for detectors that tell each object once.
    Raises PicturesUnusable where it finds nothing in any of them, which would prove nothing.
    """

    pictures: Floats
    outputs: Floats
    classes: int
    iou_threshold: float = POSTPROCESS["iou_threshold"]

    def __post_init__(self) -> None:
        sure, _ = sure_and_seen(POSTPROCESS["score_threshold"])
        if not any((boxes.scores >= sure).any() for boxes in self._boxes()):
            raise PicturesUnusable(
                f"the network finds nothing in any of the pictures, with a score of {sure:g} or more; give some of what it knows"
            )

    def _boxes(self) -> list[Boxes]:
        size_px = self.pictures.shape[-1]
        _, seen = sure_and_seen(POSTPROCESS["score_threshold"])
        return [find(output, self.classes, size_px, self.iou_threshold, seen) for output in self.outputs]

    @property
    def count(self) -> int:
        return len(self.pictures)

    @property
    def expected(self) -> Floats:
        return self.outputs

    @property
    def subnet_accuracy(self) -> float:
        return 1.0

    def parts(self) -> Iterable[Floats]:
        return [self.pictures]

    def judge(self) -> Judge:
        return Agreement(self._boxes(), self.classes, self.pictures.shape[-1], self.iou_threshold)
