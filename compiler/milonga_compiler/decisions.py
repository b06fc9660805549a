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
from milonga_compiler.boxes import POSTPROCESS, Boxes, alike, find, sure_and_seen

# As many pictures as calibrate. Of 64, a build that decides 99 of 100 alike misses the share below once in 250 times, one that
# decides 90 alike gets by once in 9 (binomial distribution).
MOST_PICTURES = 64
# With fewer answers one that differs would refuse a build, and none would prove it.
LEAST_ANSWERS = 20
# What int8 builds keep, whole and broken, stands in docs/adr/0048-int8-builds-of-devices.md and 0051-boxes-that-are-sure.md.
LEAST_AGREEMENT = {"classification": 0.95, "detection": 0.95}


def chosen(count: int) -> NDArray[np.int64]:
    """Return the numbers of the pictures to decide on, evenly among so many: data sets lie in the order of their classes."""
    return np.unique(np.linspace(0, count - 1, min(MOST_PICTURES, count)).astype(np.int64))


def decisions(outputs: Floats, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the classes, or the boxes, that outputs (n, ...) come to, as plain JSON for `agreement`.

    `manifest` gives the task, the classes, the input and how boxes are told. None where they are too few to hold anything to.
    """
    found = _decided(outputs, manifest)
    answers = sum(score >= found["sure"] for score in found["scores"]) if "boxes" in found else len(found["class"])
    return found if answers >= LEAST_ANSWERS else None


def agreement(wanted: Mapping[str, Any], outputs: Floats, manifest: Mapping[str, Any]) -> float:
    """Return the share of what the network decides, `wanted`, and of what outputs (n, ...) come to, that is the same."""
    found = _decided(outputs, manifest)
    if "boxes" not in wanted:
        return float(np.mean([one == other for one, other in zip(wanted["class"], found["class"])]))
    names = {name: number for number, name in enumerate(manifest["classes"])}
    pairs = [alike(*pair, wanted["sure"]) for pair in zip(_pictures(wanted, names), _pictures(found, names))]
    count, same = (sum(each) for each in zip(*pairs))
    return same / count if count else 1.0


def _decided(outputs: Floats, manifest: Mapping[str, Any]) -> dict[str, Any]:
    names: Sequence[str] = manifest["classes"]
    if manifest["task"] != "detection":
        return {"class": [names[number] for number in outputs.argmax(axis=1)]}
    told, size_px = {**POSTPROCESS, **manifest["postprocess"]}, int(manifest["input"]["size_px"])
    sure, seen = sure_and_seen(told["score_threshold"])
    found = [find(one, len(names), size_px, told["iou_threshold"], seen) for one in outputs]
    return {
        "class": [names[number] for one in found for number in one.classes],
        "count": [len(one.classes) for one in found],
        # A hundredth of a pixel changes no overlap that matters.
        "boxes": [box for one in found for box in np.round(one.corners.astype(float), 2).tolist()],
        "scores": [round(float(score), 4) for one in found for score in one.scores],
        "sure": sure,
    }


def _pictures(told: Mapping[str, Any], names: Mapping[str, int]) -> list[Boxes]:
    corners = np.asarray(told["boxes"], dtype=np.float32).reshape(-1, 4)
    numbers = np.array([names[name] for name in told["class"]], dtype=np.int64)
    scores = np.asarray(told["scores"], dtype=np.float32)
    ends = np.cumsum(told["count"])
    return [
        Boxes(corners[end - count : end], numbers[end - count : end], scores[end - count : end])
        for count, end in zip(told["count"], ends)
    ]
