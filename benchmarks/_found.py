"""What detectors find, whoever exported them, and whether two find the same."""

from __future__ import annotations

import numpy as np
from milonga import detections
from milonga_compiler.backends.base import Floats

CLASSES = 10


def boxes_of_default(output: Floats) -> detections.Found:
    """Return what the default export found in a picture, from either of ultralytics' forms: (300, 6) or (4 + classes, anchors)."""
    post = detections.Postprocess()
    if output.shape[-1] == 6:
        rows = output[output[:, 4] > post.score_threshold]
        return detections.Found(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
    scores = output[4:].max(axis=0)
    chosen = np.flatnonzero(scores > post.score_threshold)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    centres, sides, classes = output[:2, chosen].T, output[2:4, chosen].T, output[4:, chosen].argmax(axis=0)
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    # Boxes of different classes never suppress each other: shifted apart, one pass does for all.
    kept = detections.suppress(corners + classes[:, None] * 1e4, post.iou_threshold)[: post.max_boxes]
    return detections.Found(corners[kept], scores[chosen][kept], classes[kept])


def alike(one: detections.Found, other: detections.Found) -> float:
    """Return the share of objects that both find, of those that either does: equal class, and boxes that overlap by 0.9."""
    table = detections.overlaps(one.boxes, other.boxes) * (one.classes[:, None] == other.classes[None, :])
    shared = 0
    while table.size and table.max() > 0.9:
        row, column = np.unravel_index(int(table.argmax()), table.shape)
        table[row, :] = table[:, column] = 0
        shared += 1
    most = len(one.boxes) + len(other.boxes) - shared
    return shared / most if most else 1.0
