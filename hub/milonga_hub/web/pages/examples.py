"""Single answers of a build beside what people said of the pictures: the surest mistakes, and right ones from all over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from milonga.inputs import Input

from milonga_hub.builds.models import Build
from milonga_hub.datasets.rules import VALIDATION, Box, Sample
from milonga_hub.errors import MilongaError
from milonga_hub.web.services import HubServices


@dataclass(frozen=True)
class Example:
    """A validation picture, its label or boxes, and what the build says of it."""

    digest: str
    label: str
    answer: str
    # Of the answer; of boxes, how well they fit those that people drew: F1.
    confidence: float
    wrong: bool
    # What people drew, and what was found; both empty where pictures have one class.
    drawn: Sequence[Box] = ()
    found: Sequence[Box] = ()


def examples(hub: HubServices, dataset_version: str, build: Build | None) -> list[Example]:
    """Return what the build's manifest keeps; nothing where an earlier version of the hub made it, or its data set is gone."""
    if build is None or not build.bundle or not dataset_version:
        return []
    try:
        manifest = hub.builds.manifest(build.bundle)
        told = (manifest.get("judged") or {}).get("examples") or []
        shown, _ = hub.datasets.samples(dataset_version, split=VALIDATION, count=1 << 30) if told else ([], 0)
        names = [str(name) for name in manifest.get("classes") or ()]
        return [_example(hub, each, shown[each["row"]], names, manifest) for each in told if each["row"] < len(shown)]
    except (MilongaError, KeyError, IndexError, ValueError):
        return []


def _example(
    hub: HubServices, told: Mapping[str, Any], sample: Sample, names: Sequence[str], manifest: Mapping[str, Any]
) -> Example:
    if "boxes" not in told:
        label, answer = names[told["label"]], names[told["answer"]]
        return Example(sample.digest, label, answer, told["confidence"], label != answer)
    size = hub.datasets.size_of(sample.digest)
    corners = np.array([each[:4] for each in told["boxes"]], dtype=np.float32).reshape(-1, 4)
    placed = Input.of(manifest["input"]).placement(*size).original(corners) / np.array([*size, *size], dtype=np.float32)
    found = [_box(names, each[5], *corner) for each, corner in zip(told["boxes"], placed.tolist(), strict=True)]
    return Example(sample.digest, "", "", told["score"], told["score"] < 1, sample.boxes, found)


def _box(names: Sequence[str], number: float, left: float, top: float, right: float, bottom: float) -> Box:
    return Box(names[int(number)], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
