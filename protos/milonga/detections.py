"""Turn what a detector makes into boxes, with numpy alone: decoding, score threshold, non-maximum suppression.

Detectors are handed out without their last, parameter-free step, which some engines lack and 8 bits would ruin. Their output
(4 * bins + classes, anchors) holds for each anchor the distances from its middle to the four sides of its box, in cells, as
`bins` logits of a distribution each (bins 1: the distance itself), and then a logit for each class. Anchors are the cells of
maps whose cells are 8, 16 and 32 pixels wide, row by row (Ultralytics YOLO, nn.modules.head.Detect).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STRIDES = (8, 16, 32)
# Boxes that are decided on at once: a table of 256 by 256 overlaps stays in a processor's cache.
_BLOCK = 256
# ultralytics.utils.nms has the same, "max_nms".
_MOST_CANDIDATES = 30_000


@dataclass(frozen=True)
class Postprocess:
    """Which boxes are told: the defaults are those of ultralytics' predict."""

    score_threshold: float = 0.25
    iou_threshold: float = 0.7
    max_boxes: int = 300

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Postprocess:
        """Return what the "postprocess" of a manifest says. Raises KeyError or ValueError for one that says too little."""
        return cls(float(described["score_threshold"]), float(described["iou_threshold"]), int(described["max_boxes"]))

    def described(self) -> dict[str, Any]:
        """Return the "postprocess" of a manifest."""
        return dict(vars(self))


@dataclass(frozen=True)
class Found:
    """Objects in one picture, the surest first: boxes (n, 4) as corners x1, y1, x2, y2 in pixels of the network's input,
    scores (n,) from 0 to 1, and classes (n,) by number.
    """

    boxes: Floats
    scores: Floats
    classes: NDArray[np.int64]


def anchor_count(size_px: int, strides: Sequence[int] = STRIDES) -> int:
    """Return how many anchors a detector has for squares of `size_px`."""
    return sum((size_px // stride) ** 2 for stride in strides)


@lru_cache(maxsize=32)
def _anchors(size_px: int, strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return the middles (2, anchors) of all cells, in cells, and the width (anchors,) of each, in pixels."""
    middles, widths = [], []
    for stride in strides:
        cells = size_px // stride
        along = np.arange(cells, dtype=np.float32) + np.float32(0.5)
        y, x = np.meshgrid(along, along, indexing="ij")
        middles.append(np.stack([x.ravel(), y.ravel()]))
        widths.append(np.full(cells * cells, stride, dtype=np.float32))
    return np.concatenate(middles, axis=1), np.concatenate(widths)


def _distances(maps: Floats) -> Floats:
    """Return distances (4, anchors) of maps (4 * bins, anchors): the mean of each distribution."""
    bins = len(maps) // 4
    if bins == 1:
        return maps
    logits = maps.reshape(4, bins, -1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    values = np.arange(bins, dtype=np.float32).reshape(1, bins, 1)
    return np.asarray((powers * values).sum(axis=1) / powers.sum(axis=1), dtype=np.float32)


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)


def boxes_of(
    maps: Floats, size_px: int, chosen: NDArray[np.int64] | None = None, strides: Sequence[int] = STRIDES
) -> Floats:
    """Return the boxes (n, 4) of maps (4 * bins, n), corners in pixels; `chosen` are the anchors of the maps, or all."""
    middles, widths = _anchors(size_px, tuple(strides))
    if chosen is not None:
        middles, widths = middles[:, chosen], widths[chosen]
    distances = _distances(maps)
    corners = np.concatenate([middles - distances[:2], middles + distances[2:]]) * widths
    return np.ascontiguousarray(corners.T, dtype=np.float32)


def find(
    output: Floats, classes: int, size_px: int, post: Postprocess = Postprocess(), strides: Sequence[int] = STRIDES
) -> Found:
    """Return the objects in what a detector made of one picture (4 * bins + classes, anchors); one class for each box.

    Boxes without an area are none: they overlap nothing, not even themselves. Raises ValueError where the shape is not that of a detector for so many classes and this size.
    """
    bins, rest = divmod(output.shape[0] - classes, 4)
    if output.ndim != 2 or bins < 1 or rest or output.shape[1] != anchor_count(size_px, strides):
        raise ValueError(f"{output.shape} is not the output of a detector for {classes} classes at {size_px} px")
    logits = output[4 * bins :]
    scores = sigmoid(logits.max(axis=0))
    candidates = np.flatnonzero(scores > post.score_threshold)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")][:_MOST_CANDIDATES]
    boxes = boxes_of(output[: 4 * bins][:, candidates], size_px, candidates, strides)
    seen = with_area(boxes)
    candidates, boxes = candidates[seen], boxes[seen]
    numbers = logits[:, candidates].argmax(axis=0)
    kept = _kept_by_class(boxes, numbers, post.iou_threshold)[: post.max_boxes]
    return Found(boxes[kept], scores[candidates][kept], numbers[kept])


def with_area(boxes: Floats) -> NDArray[np.bool_]:
    """Return which boxes (n, 4) of corners have an area: networks give sides below zero, too."""
    return np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))


def _kept_by_class(boxes: Floats, numbers: NDArray[np.int64], iou_threshold: float) -> NDArray[np.int64]:
    parts = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    kept = [part[suppress(boxes[part], iou_threshold)] for part in parts]
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=np.int64)


def suppress(boxes: Floats, iou_threshold: float) -> NDArray[np.int64]:
    """Return the places of the boxes that no kept box before them overlaps by more than the threshold.

    `boxes` (n, 4) are corners, the best first. Greedy suppression, as torchvision.ops.nms does it.
    """
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(boxes), _BLOCK):
        members = np.arange(start, min(start + _BLOCK, len(boxes)))
        members = members[~(overlaps(boxes[kept], boxes[members]) > iou_threshold).any(axis=0)]
        over = overlaps(boxes[members], boxes[members]) > iou_threshold
        keep = np.ones(len(members), dtype=bool)
        for position in range(len(members)):
            if keep[position]:
                keep[position + 1 :] &= ~over[position, position + 1 :]
        kept = np.concatenate([kept, members[keep]])
    return kept


def overlaps(first: Floats, second: Floats) -> Floats:
    """Return (n, m) intersections over unions of boxes (n, 4) and (m, 4), as corners."""
    sides = []
    for low, high in ((0, 2), (1, 3)):
        side = np.minimum(first[:, high, None], second[None, :, high])
        side -= np.maximum(first[:, low, None], second[None, :, low])
        sides.append(np.maximum(side, 0, out=side))
    shared = np.multiply(sides[0], sides[1], out=sides[0])
    areas = [(one[:, 2:] - one[:, :2]).prod(axis=1) for one in (first, second)]
    union = areas[0][:, None] + areas[1][None, :]
    union -= shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), dtype=np.float32)
