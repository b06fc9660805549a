"""Run champion and challenger on the same validation pictures. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from milonga.candidates import finished
from milonga.inputs import Input
from milonga_compiler.backends import backend
from milonga_compiler.bundle import Bundle, verify_bundle
from numpy.typing import NDArray

from milonga_hub.builds.rules import MAX_CLASS_LOSS_POINTS, Group, judge
from milonga_hub.jobs import JobContext, JobError
from milonga_hub.learning.data import is_new
from milonga_hub.learning.held_back import fewest
from milonga_hub.learning.task import PictureJudge, Task
from milonga_hub.learning.tasks import opened


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return the accuracy of both on old and new pictures, and whether the challenger is better."""
    bundles = {who: verify_bundle(Path(spec[who])) for who in ("champion", "challenger")}
    size_px = max(Input.of(one.manifest["input"]).size_px for one in bundles.values())
    # Boxes are told alike by both: networks are compared, not thresholds.
    task = opened(spec["data"], size_px, bundles["challenger"].manifest.get("postprocess"))
    if not len(task.added):
        raise JobError("there are no validation pictures to compare versions on; add some to the data set")
    # What chose neither of them judges them, where there is enough of it.
    judging = task.held_back if task.held_back.any() else np.ones(len(task.added), dtype=bool)
    count, judges = int(judging.sum()), {}
    for index, (who, bundle) in enumerate(bundles.items()):
        context.progress(index / 2, f"running {_title(bundle)} ({who}) on {len(task.added)} pictures")
        judges[who] = _judged(bundle, task)
    kinds = _by_age(task.added, spec.get("learned", 0)), zip(task.names, task.shown.T, strict=True)
    by_age, by_class = (_groups(judges["champion"], judges["challenger"], judging, each) for each in kinds)
    verdict = judge(
        by_age,
        *_titles(bundles["champion"], bundles["challenger"]),
        measure=task.measure,
        classes=by_class,
        max_class_loss_points=spec.get("max_class_loss_points", MAX_CLASS_LOSS_POINTS),
        gains=judges["challenger"].gains(judges["champion"], judging),
    )
    reason = f"{verdict.reason}; {_said_of(count, task)}"
    context.progress(1.0, reason)
    return {
        "groups": [vars(group) for group in by_age],
        "classes": [vars(group) for group in by_class],
        "better": verdict.better,
        "p_value": verdict.p_value,
        "reason": reason,
    }


def _said_of(count: int, task: Task) -> str:
    """Return whether the pictures that judged had chosen the networks before."""
    if task.held_back.any():
        return (
            f"judged by {count} pictures that were held back for this: no training, no search and no gate of a build has seen how they"
            " are answered"
        )
    return (
        f"judged by the {count} pictures that chose it, so that it looks a little better than it is; some are held back from"
        f" {fewest(task.classes)} on"
    )


def _by_age(added: NDArray[np.int64], learned: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the pictures by age: "new" ones came after the data set's version that the champion learned from. Where that is not
    known (0), they came with the newest version, unless it is the first."""
    newest = is_new(added, learned) & (added > 1)
    return [("old", ~newest), ("new", newest)]


def _groups(
    champion: PictureJudge,
    challenger: PictureJudge,
    judging: NDArray[np.bool_],
    kinds: Iterable[tuple[str, NDArray[np.bool_]]],
) -> list[Group]:
    gain = challenger.scores() - champion.scores()
    return [
        Group(
            name,
            count=int(mask.sum()),
            champion_accuracy=champion.accuracy_of(mask),
            challenger_accuracy=challenger.accuracy_of(mask),
            gained=int((gain > 0)[mask].sum()),
            lost=int((gain < 0)[mask].sum()),
        )
        for name, mask in ((name, shown & judging) for name, shown in kinds)
        if mask.any()
    ]


def _title(bundle: Bundle) -> str:
    """Return "v2" for models/digits/versions/2, as people say it."""
    return "v" + str(bundle.manifest["model_version"]).rsplit("/", 1)[-1]


def _titles(champion: Bundle, challenger: Bundle) -> tuple[str, str]:
    old, new = _title(champion), _title(challenger)
    return (old, new) if old != new else (f"{old} (champion)", f"{new} (challenger)")


def _judged(bundle: Bundle, task: Task) -> PictureJudge:
    """Return what the bundle's outputs come to; each bundle sees the pictures in its own size and scaling."""
    seen = Input.of(bundle.manifest["input"])
    # What only a device can build is judged by what it falls back to: the same network.
    runnable = finished(bundle.manifest)
    if runnable is None:
        raise JobError(f"{_title(bundle)} has no build that runs here; build it for onnxruntime/fp32 too")
    engine = backend(runnable.engine)
    judge = task.judge(seen, [str(name) for name in bundle.manifest["classes"]])
    for part in task.validation(seen):
        judge.add(engine.run(bundle.folder / runnable.model_file, part, 1))
    return judge
