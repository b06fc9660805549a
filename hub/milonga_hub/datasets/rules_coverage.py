"""Where in pictures objects are: how many boxes cover each part of the frame. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milonga_hub.datasets.rules import Sample

SIDE = 24


@dataclass(frozen=True)
class Coverage:
    """Boxes that cover each of SIDE x SIDE parts, row by row from the top, of so many boxes."""

    counts: Sequence[Sequence[int]]
    boxes: int


def coverage_of(samples: Sequence[Sample], label: str = "") -> Coverage | None:
    """Return the coverage by boxes of one class or of all; None where there is none."""
    boxes = [box for sample in samples for box in sample.boxes if label in ("", box.label)]
    if not boxes:
        return None
    placed = np.array([(box.x, box.y, box.width, box.height) for box in boxes])
    middles, halves = placed[:, :2], placed[:, 2:] / 2
    low = np.clip(np.floor((middles - halves) * SIDE), 0, SIDE - 1).astype(int)
    high = np.clip(np.ceil((middles + halves) * SIDE), low + 1, SIDE).astype(int)
    # A box adds one from its first corner on and takes it away behind the others; sums over both sides then are counts.
    edges = np.zeros((SIDE + 1, SIDE + 1), dtype=np.int64)
    for rows, columns, sign in ((low, low, 1), (low, high, -1), (high, low, -1), (high, high, 1)):
        np.add.at(edges, (rows[:, 1], columns[:, 0]), sign)
    counts = edges.cumsum(axis=0).cumsum(axis=1)[:SIDE, :SIDE]
    return Coverage(counts.tolist(), len(boxes))
