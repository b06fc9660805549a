"""Whether two models answer alike: classes one by one, boxes by overlap and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from milonga.detections import overlaps

from milonga_agent.answers import Answer

# The usual bar for the same object (PASCAL VOC).
_SAME_OBJECT = 0.5


def summary(answer: Answer) -> dict[str, Any]:
    """Return what is compared of an answer, as plain JSON."""
    values = answer.values
    told: dict[str, Any] = {"class": list(values["class"])}
    if "boxes" in values:
        told["count"] = [int(count) for count in values["count"]]
        told["boxes"] = np.asarray(values["boxes"]).tolist()
    return told


def size(one: Mapping[str, Any]) -> int:
    """Return how many answers a summary holds, at least one: a request that fails has to count."""
    return max(1, len(one["class"]))


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many answers two summaries hold together, and how many of those agree.

    Classes: the pictures, and those of the same class. Boxes: those of both, and those that have a partner of the same class
    which they overlap by a half (intersection over union), each box at most one.
    """
    if ("boxes" in one) != ("boxes" in other):
        return size(one), 0  # One classifies, the other detects.
    if "boxes" not in one:
        return len(one["class"]), sum(a == b for a, b in zip(one["class"], other["class"]))
    agreeing = sum(_partners(*pair) for pair in zip(_pictures(one), _pictures(other)))
    return len(one["class"]) + len(other["class"]), 2 * agreeing


def _pictures(told: Mapping[str, Any]) -> list[tuple[Sequence[str], Any]]:
    boxes = np.asarray(told["boxes"], dtype=np.float32).reshape(-1, 4)
    found, start = [], 0
    for count in told["count"]:
        found.append((told["class"][start : start + count], boxes[start : start + count]))
        start += count
    return found


def _partners(one: tuple[Sequence[str], Any], other: tuple[Sequence[str], Any]) -> int:
    """Return how many boxes of one picture find a partner in the other's: the pairs that overlap most come first."""
    alike = np.array([[a == b for b in other[0]] for a in one[0]], dtype=bool).reshape(len(one[0]), len(other[0]))
    shared = overlaps(one[1], other[1]) * alike
    rows, columns = np.nonzero(shared >= _SAME_OBJECT)
    taken_rows, taken_columns = set(), set()
    for index in np.argsort(-shared[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
    return len(taken_rows)
