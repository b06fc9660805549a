"""How a build answers, class by class, in figures small enough to stand in its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from milonga_compiler.backends.base import Floats
from numpy.typing import NDArray

# A matrix of more classes is too large for a manifest, and for a page.
MOST_CONFUSED = 40
_CURVE_POINTS = 41
# Of the mistakes, and of the right answers: what fits on a page, and is little in a manifest.
_MOST_SHOWN = 24
# Of one picture.
MOST_BOXES = 20


def of_answers(
    labels: NDArray[np.int64], answers: NDArray[np.int64], confidences: Floats, classes: int
) -> dict[str, Any]:
    """Return support, precision and recall by class, the confusion of few classes, and precision against recall.

    Labels, answers and confidences are (n,). Rows of the confusion are what pictures show, columns what was answered. The
    curve is that of all answers together as those of low confidence are left out; None is a figure of no pictures.
    """
    right = labels == answers
    support, told, hit = (np.bincount(some, minlength=classes) for some in (labels, answers, labels[right]))
    found: dict[str, Any] = {
        "support": support.tolist(),
        "precision": _shares(hit, told),
        "recall": _shares(hit, support),
        "curve": _curve(right, confidences, len(labels)),
    }
    if classes <= MOST_CONFUSED:
        pairs = np.bincount(labels * classes + answers, minlength=classes * classes)
        found["confusion"] = pairs.reshape(classes, classes).tolist()
    return found


def examples(
    rows: NDArray[np.int64], labels: NDArray[np.int64], answers: NDArray[np.int64], confidences: Floats
) -> list[dict[str, Any]]:
    """Return single answers to look at: the surest mistakes, the surest first, then right ones from all over.

    All are (n,); `rows` tells which validation picture of the data set version each is, in the order of its listing.
    """
    wrong, right = np.flatnonzero(labels != answers), np.flatnonzero(labels == answers)
    surest = wrong[np.argsort(-confidences[wrong], kind="stable")][:_MOST_SHOWN]
    spread = right[np.unique(np.linspace(0, max(0, len(right) - 1), min(_MOST_SHOWN, len(right))).astype(int))]
    return [
        {
            "row": int(rows[place]),
            "label": int(labels[place]),
            "answer": int(answers[place]),
            "confidence": round(float(confidences[place]), 4),
        }
        for place in (*surest, *spread)
    ]


def examples_of_boxes(told: Sequence[Floats], scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return the pictures to look at, in the order of a listing's validation pictures: those answered worst, then from all over.

    `told` are for each picture (k, 6): corners in pixels of the input, confidence and class; `scores` its F1.
    """
    by_score = np.argsort(scores, kind="stable")
    worst, rest = by_score[: _MOST_SHOWN // 2], by_score[_MOST_SHOWN // 2 :]
    spread = rest[np.unique(np.linspace(0, max(0, len(rest) - 1), min(_MOST_SHOWN // 2, len(rest))).astype(int))]
    return [
        {"row": int(row), "score": round(float(scores[row]), 4), "boxes": [_rounded(one) for one in told[row]]}
        for row in (*worst, *spread)
    ]


def of_boxes(figures: Sequence[Any], objects: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """Return the same of boxes: what ultralytics' `ap_per_class` returned, and the classes of all objects (n,).

    Precision and recall are those at the confidence of the best F1, at an overlap of a half, as the curve is; average
    precision is the mean over all overlaps.
    """
    precision, recall, average, present = figures[2], figures[3], figures[5], figures[6]
    grid, at_half = np.asarray(figures[10]), np.asarray(figures[11])
    points = np.linspace(0, len(grid) - 1, _CURVE_POINTS).astype(int)
    return {
        "support": np.bincount(objects, minlength=classes)[:classes].tolist(),
        "precision": _spread(precision, present, classes),
        "recall": _spread(recall, present, classes),
        "average_precision": _spread(average.mean(1), present, classes),
        "curve": {"recall": _rounded(grid[points]), "precision": _rounded(at_half.mean(0)[points])},
    }


def _spread(values: NDArray[np.float64], present: NDArray[np.int64], classes: int) -> list[float | None]:
    """Return figures of the classes that are present as a list of all classes."""
    known = dict(zip(present.tolist(), _rounded(values), strict=True))
    return [known.get(place) for place in range(classes)]


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _shares(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> list[float | None]:
    return [round(float(part / whole), 4) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def _curve(right: NDArray[np.bool_], confidences: Floats, count: int) -> dict[str, list[float]]:
    """Return (points,) of recall and precision, from the surest answers alone to all of them."""
    if not count:
        return {"recall": [], "precision": []}
    hits = np.cumsum(right[np.argsort(-confidences, kind="stable")])
    points = np.unique(np.linspace(0, count - 1, _CURVE_POINTS).astype(int))
    return {
        "recall": [round(float(hits[point] / count), 4) for point in points],
        "precision": [round(float(hits[point] / (point + 1)), 4) for point in points],
    }
