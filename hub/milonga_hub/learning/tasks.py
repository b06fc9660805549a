"""Open what a job is given to learn from, whatever the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milonga.detections import Postprocess

from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.task import Task


def opened(path: str | Path, resolution_px: int, told: Mapping[str, Any] | None = None) -> Task:
    """Return the task of a data set that the hub wrote: arrays (.npz) to classify, a data.yaml to detect.

    `told` says which boxes devices tell, as a manifest's "postprocess" does; it concerns detection alone.
    Raises ValueError where it cannot be used, and UltralyticsMissing for detection without ultralytics.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return Classification(load(path))
    from milonga_hub.learning.detection import Detection
    from milonga_hub.learning.detection_data import read

    post = Postprocess.of(told) if told else Postprocess()
    return Detection(read(path, checked=True), resolution_px, post=post)
