"""What a network decides on pictures that travel with it: devices hold the int8 builds that they make themselves to that.

How far int8 moves an output says little: a detector that finds all of its objects may move one by a tenth of the range, and of a
classifier with a broken channel no output moves by much more. Whether classes and boxes are the same ones says what it is good for,
on pictures that it was not calibrated on: of those that it was, a broken one knows most all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milonga_compiler.backends.base import Floats
from milonga_compiler.boxes import find

# As many pictures as calibrate. Of 64, a build that decides 99 of 100 alike misses the share below once in 250 times, one that
# decides 90 alike gets by once in 9 (binomial distribution).
MOST_PICTURES = 64
# With fewer answers one that differs would refuse a build, and none would prove it.
LEAST_ANSWERS = 20
# What int8 builds keep, whole and broken, stands in docs/adr/0048-int8-builds-of-devices.md.
LEAST_AGREEMENT = {"classification": 0.95, "detection": 0.9}


def chosen(count: int) -> NDArray[np.int64]:
    """Return the numbers of the pictures to decide on, evenly among so many: data sets lie in the order of their classes."""
    return np.unique(np.linspace(0, count - 1, min(MOST_PICTURES, count)).astype(np.int64))


def decisions(outputs: Floats, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the classes, or the boxes, that outputs (n, ...) come to, as answers of devices are compared (milonga_agent.agreement).

    `manifest` gives the task, the classes, the input and how boxes are told. None where they are too few to hold anything to.
    """
    names: Sequence[str] = manifest["classes"]
    if manifest["task"] == "detection":
        found = _boxes(outputs, names, int(manifest["input"]["size_px"]), manifest["postprocess"])
    else:
        found = {"class": [names[number] for number in outputs.argmax(axis=1)]}
    return found if len(found["class"]) >= LEAST_ANSWERS else None


def _boxes(outputs: Floats, names: Sequence[str], size_px: int, told: Mapping[str, Any]) -> dict[str, Any]:
    found = [find(one, len(names), size_px, told["iou_threshold"], told["score_threshold"]) for one in outputs]
    corners = [np.clip(one.corners, 0, size_px) for one in found]
    # What lies outside the picture is told by no device.
    inside = [(one[:, 2:] > one[:, :2]).all(axis=1) for one in corners]
    return {
        "class": [names[number] for one, seen in zip(found, inside) for number in one.classes[seen]],
        "count": [int(seen.sum()) for seen in inside],
        # A hundredth of a pixel changes no overlap that matters.
        "boxes": [box for one, seen in zip(corners, inside) for box in np.round(one[seen].astype(float), 2).tolist()],
    }
