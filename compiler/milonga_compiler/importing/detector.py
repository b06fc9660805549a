"""The maps of a detector from elsewhere: what it makes before its boxes are decoded, which devices do themselves.

Which values inside of it those are is not known by their names, which change with every exporter: all that have their shape are
decoded as devices would do it, and the ones that come to the network's own boxes and scores are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from milonga_compiler.backends.base import Floats
from milonga_compiler.boxes import anchor_count, corners_of, scores_of
from milonga_compiler.errors import BuildFailed
from milonga_compiler.importing.reading import Foreign
from milonga_compiler.importing.running import look_inside

# What puts the three maps of a detector side by side, or takes boxes and scores apart.
_JOINING = ("Concat", "Reshape", "Split", "Slice", "Transpose", "Identity")
# Pixels, and shares of 1: sums in another order; wrong values differ by whole cells.
_MOST_PIXELS_OFF, _MOST_SCORE_OFF = 0.05, 1e-3
_MOST_BINS = 64
_EXPORT = "taken are those of ultralytics without anchors (YOLOv5u, v8, v9, v10, 11, 12, 26), with maps of 8, 16 and 32 pixels"


@dataclass(frozen=True)
class Maps:
    """The network, and which of its values are the maps (n, 4 * bins + classes, anchors)."""

    model: onnx.ModelProto
    output: str
    end_to_end: bool


def maps_of(foreign: Foreign, pictures: Floats, made: Floats, classes: int) -> Maps:
    """Find the maps; `made` is what the network makes of the pictures: (n, 4 + classes, anchors) with centres, sizes and scores, or
    (n, boxes, 6) with corners, score and class. Raises BuildFailed where they are not there.
    """
    anchors = anchor_count(foreign.size_px)
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    if foreign.output_name == "maps" and made.shape[2] == anchors and (made.shape[1] - classes) % 4 == 0:
        return Maps(model, "maps", False)  # As this project hands its own out.
    operators = {node.op_type for node in model.graph.node}
    if "NonMaxSuppression" in operators:
        raise BuildFailed(
            f"{foreign.name} suppresses boxes itself, which many engines cannot; export it without (ultralytics: leave nms=True"
            " out), devices do it"
        )
    end_to_end = made.shape[2] == 6 != anchors
    if not end_to_end:
        _check_decoded(foreign, made, classes, anchors)
    names = [name for node in model.graph.node if node.op_type in _JOINING for name in node.output]
    seen = look_inside(model, names, pictures, foreign.path.with_name(f"inside-{foreign.name}"))
    found = _found(model, seen, made, classes, foreign.size_px, end_to_end)
    if found is None:
        raise BuildFailed(
            f"nothing inside {foreign.name} decodes to the boxes that it makes with {classes} classes at {foreign.size_px} px;"
            f" {_EXPORT}, or the number of classes is another"
        )
    model.graph.node.append(helper.make_node("Concat", [*found], ["found_maps"], "found_maps", axis=1))
    return Maps(model, "found_maps", end_to_end)


def _check_decoded(foreign: Foreign, made: Floats, classes: int, anchors: int) -> None:
    rows, columns = made.shape[1:]
    if columns != anchors:
        turned = "; export it with boxes in the last axis" if rows == anchors else ""
        raise BuildFailed(
            f"{foreign.name} makes {(rows, columns)} of a picture: a detector at {foreign.size_px} px has {anchors} anchors in the"
            f" last axis; {_EXPORT}{turned}"
        )
    if rows != 4 + classes:
        raise BuildFailed(
            f"{foreign.name} tells {rows - 4} classes apart, and {classes} are named; name all of them, in its own order"
        )


def _found(
    model: onnx.ModelProto, seen: Mapping[str, Floats], made: Floats, classes: int, size_px: int, end_to_end: bool
) -> tuple[str, str] | None:
    """Return the names of the boxes (n, 4 * bins, anchors) and the logits of scores (n, classes, anchors)."""
    anchors = anchor_count(size_px)
    before_sigmoid = {node.input[0] for node in model.graph.node if node.op_type == "Sigmoid"}
    flat = {name: value for name, value in seen.items() if value.ndim == 3 and value.shape[2] == anchors}
    for scores in (name for name, value in flat.items() if name in before_sigmoid and value.shape[1] == classes):
        for boxes in _boxes(flat, scores):
            agrees = _agrees_end_to_end if end_to_end else _agrees
            if all(
                agrees(corners_of(box, size_px), scores_of(score), own)
                for box, score, own in zip(flat[boxes], flat[scores], made)
            ):
                return boxes, scores
    return None


def _boxes(flat: Mapping[str, Floats], scores: str) -> Iterator[str]:
    for name, value in flat.items():
        bins, rest = divmod(value.shape[1], 4)
        if name != scores and not rest and 1 <= bins <= _MOST_BINS:
            yield name


def _agrees(corners: Floats, scores: Floats, own: Floats) -> bool:
    """Compare corners (anchors, 4) and scores (classes, anchors) with centres, sizes and scores (4 + classes, anchors)."""
    half = own[2:4] / 2
    wanted = np.concatenate([own[:2] - half, own[:2] + half]).T
    return bool(
        np.abs(corners - wanted).max() <= _MOST_PIXELS_OFF and np.abs(scores - own[4:]).max() <= _MOST_SCORE_OFF
    )


def _agrees_end_to_end(corners: Floats, scores: Floats, own: Floats) -> bool:
    """Look for each row (x1, y1, x2, y2, score, class) among the anchors' corners and scores; the order does not matter."""
    for row in own:
        near = np.abs(corners - row[:4]).max(axis=1) <= _MOST_PIXELS_OFF
        number = int(row[5])
        if not 0 <= number < len(scores) or not (near & (np.abs(scores[number] - row[4]) <= _MOST_SCORE_OFF)).any():
            return False
    return True
