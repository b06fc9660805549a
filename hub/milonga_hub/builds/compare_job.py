"""Run champion and challenger on the same validation pictures. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from milonga import pictures
from milonga_compiler.backends import backend
from milonga_compiler.bundle import Bundle, verify_bundle
from milonga_compiler.errors import CompilerError
from numpy.typing import NDArray

from milonga_hub.builds.rules import Group, judge
from milonga_hub.jobs import JobContext, JobError

# Pictures are resized and run in parts of this many, so that memory stays bounded and progress is seen.
_PART = 512


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return the accuracy of both on old and new pictures, and whether the challenger is better."""
    with np.load(spec["data"]) as arrays:
        images, labels, added = arrays["x_val"], arrays["y_val"], arrays["added_val"]
        classes = [str(name) for name in arrays["classes"]]
    if not len(images):
        raise JobError("there are no validation pictures to compare versions on; add some to the data set")
    try:
        bundles = {who: verify_bundle(Path(spec[who])) for who in ("champion", "challenger")}
        right = {}
        for index, (who, bundle) in enumerate(bundles.items()):
            context.progress(index / 2, f"running {_title(bundle)} ({who}) on {len(images)} pictures")
            right[who] = _answers(bundle, images, classes) == labels
    except CompilerError as error:
        raise JobError(str(error)) from error
    groups = _groups(right["champion"], right["challenger"], added)
    verdict = judge(groups, *_titles(bundles["champion"], bundles["challenger"]))
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


def _groups(champion: NDArray[np.bool_], challenger: NDArray[np.bool_], added: NDArray[np.int32]) -> list[Group]:
    """Count by age: "new" pictures came with the newest data set version, unless it is the first."""
    newest = (added == added.max()) & (added > 1)
    return [
        Group(
            name,
            count=int(mask.sum()),
            champion_right=int(champion[mask].sum()),
            gained=int((challenger & ~champion)[mask].sum()),
            lost=int((champion & ~challenger)[mask].sum()),
        )
        for name, mask in (("old", ~newest), ("new", newest))
        if mask.any()
    ]


def _title(bundle: Bundle) -> str:
    """Return "v2" for models/digits/versions/2, as people say it."""
    return "v" + str(bundle.manifest["model_version"]).rsplit("/", 1)[-1]


def _titles(champion: Bundle, challenger: Bundle) -> tuple[str, str]:
    old, new = _title(champion), _title(challenger)
    return (old, new) if old != new else (f"{old} (champion)", f"{new} (challenger)")


def _answers(bundle: Bundle, images: NDArray[np.uint8], classes: list[str]) -> NDArray[np.int64]:
    """Return the index in `classes` of each answer, -1 where the bundle's class is not one of them.

    Each bundle sees the pictures in its own size and scaling.
    """
    described = bundle.manifest["input"]
    engine = backend(bundle.manifest["engine"])
    index = {name: number for number, name in enumerate(classes)}
    known = np.array([index.get(name, -1) for name in bundle.manifest["classes"]], dtype=np.int64)
    answers = []
    for start in range(0, len(images), _PART):
        resized = pictures.scaled(images[start : start + _PART], described["size_px"])
        inputs = pictures.normalise(resized, described["mean"], described["std"])
        logits = engine.run(bundle.folder / bundle.manifest["model_file"], inputs, 1)
        answers.append(known[logits.argmax(axis=1)])
    return np.concatenate(answers)
