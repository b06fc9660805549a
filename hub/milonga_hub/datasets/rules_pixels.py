"""Boxes in pixels, as COCO and Pascal VOC write them, as shares of the picture."""

from __future__ import annotations

import math
from typing import NamedTuple

from milonga import yolo

from milonga_hub.datasets.rules import Box

# Two sizes of one shape differ by a rounded pixel at most; beyond this they are of two pictures.
_SAME_SHAPE = 0.01


class PixelBox(NamedTuple):
    """An object as a file marks it: its class, its edges in pixels, and what to call it in an error."""

    label: str
    left: float
    top: float
    right: float
    bottom: float
    name: str


def frame(said: tuple[float, float], seen: tuple[int, int]) -> tuple[float, float] | str:
    """Return the size in pixels that boxes are to be taken of, or what is wrong with the one that was said.

    A picture that was only scaled since keeps its boxes. One of another shape was cut or turned: they would lie anywhere.
    """
    if not all(math.isfinite(side) and side > 0 for side in said):
        return seen
    if abs(said[0] * seen[1] - said[1] * seen[0]) <= _SAME_SHAPE * said[0] * seen[1]:
        return said
    text = f"is annotated at {said[0]:g} × {said[1]:g} pixels and has {seen[0]} × {seen[1]}"
    if abs(said[0] * seen[0] - said[1] * seen[1]) <= _SAME_SHAPE * said[0] * seen[0]:
        return f"{text} once it is turned upright; annotate it as it is shown, or remove its EXIF orientation"
    return f"{text}; send the picture that was annotated"


def share(box: PixelBox, size: tuple[float, float]) -> Box | str:
    """Return the box as shares of a picture of that size, or what is wrong with it."""
    edges = box[1:5]
    if not all(math.isfinite(edge) for edge in edges):
        return "has an edge that is not finite; remove it"
    width, height = (box.right - box.left) / size[0], (box.bottom - box.top) / size[1]
    x, y = (box.left + box.right) / 2 / size[0], (box.top + box.bottom) / 2 / size[1]
    # The same rule as for shares: what juts out a little is cut off, as objects at the edge often do.
    if max(x, y, width, height) > 1 + yolo.MOST_BEYOND or min(x, y) < -yolo.MOST_BEYOND:
        corners = ", ".join(f"{edge:g}" for edge in edges)
        return f"lies outside of the picture: from {corners} in {size[0]:g} × {size[1]:g} pixels"
    row = yolo.within(0, x, y, width, height)
    return row if isinstance(row, str) else Box(box.label, row.x, row.y, row.width, row.height)
