"""Run champion and challenger on the same validation pictures. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from milonga import pictures
from milonga_compiler.backends import backend
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.errors import CompilerError
from numpy.typing import NDArray
from PIL import Image

from milonga_hub.builds.rules import Group, judge
from milonga_hub.jobs import JobContext, JobError


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return the accuracy of both on old and new pictures, and whether the challenger is better."""
    with np.load(spec["data"]) as arrays:
        images, labels, added = arrays["x_val"], arrays["y_val"], arrays["added_val"]
        classes = [str(name) for name in arrays["classes"]]
    right = {}
    for index, who in enumerate(("champion", "challenger")):
        context.progress(index / 2, f"running the {who}")
        right[who] = _answers(Path(spec[who]), images, classes) == labels
    newest = added == added.max() if added.max() > 1 else np.zeros(len(added), dtype=bool)
    groups = [
        Group(name, int(mask.sum()), int(right["champion"][mask].sum()), int(right["challenger"][mask].sum()))
        for name, mask in (("old", ~newest), ("new", newest))
        if mask.any()
    ]
    gained = int((right["challenger"] & ~right["champion"]).sum())
    lost = int((right["champion"] & ~right["challenger"]).sum())
    verdict = judge(groups, gained, lost)
    context.progress(1.0, verdict.reason)
    return {
        "groups": [
            {
                "name": group.name,
                "count": group.count,
                "champion_accuracy": group.champion_right / group.count,
                "challenger_accuracy": group.challenger_right / group.count,
            }
            for group in groups
        ],
        "better": verdict.better,
        "p_value": verdict.p_value,
        "reason": verdict.reason,
    }


def _answers(folder: Path, images: NDArray[np.uint8], classes: list[str]) -> NDArray[np.int64]:
    """Return the index in `classes` of each answer, -1 where the bundle's class is not one of them."""
    try:
        bundle = verify_bundle(folder)
        described = bundle.manifest["input"]
        resized = np.stack([_resized(image, described["size_px"]) for image in images])
        inputs = pictures.normalise(resized, described["mean"], described["std"])
        engine = backend(bundle.manifest["engine"])
        logits = engine.run(folder / bundle.manifest["model_file"], inputs, 1)
    except CompilerError as error:
        raise JobError(str(error)) from error
    index = {name: number for number, name in enumerate(classes)}
    known = np.array([index.get(name, -1) for name in bundle.manifest["classes"]])
    return np.asarray(known[logits.argmax(axis=1)], dtype=np.int64)


def _resized(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    if image.shape[1] == size_px:
        return image
    return pictures.to_array(Image.fromarray(image.transpose(1, 2, 0)), size_px)
