"""Train a project's supernet. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from milonga_hub.jobs import JobContext, JobError
from milonga_hub.learning.checkpoint import Point, Recipe
from milonga_hub.learning.spaces import rebuilt, space
from milonga_hub.learning.task import Mixed, Task
from milonga_hub.learning.tasks import opened
from milonga_hub.learning.train import Trainer
from milonga_hub.learning.tune import OptunaMissing, tuned

_SECONDS_BETWEEN_NEWS = 0.5
# When training on, so much of each batch is at least of the newest pictures; the rest replays all.
_NEWEST_SHARE = 0.3


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return the checkpoint, the accuracies of the largest and smallest subnet of how many, and the training curve."""
    torch.set_num_threads(spec["threads"] or torch.get_num_threads())
    context.progress(0.0, "loading pictures")
    base = Path(spec["base_checkpoint"]) if spec["base_checkpoint"] else None
    given = {key: spec[key] for key in Recipe.__dataclass_fields__ if key in spec}
    path = workdir / "checkpoint.pt"
    try:
        recipe = Recipe(**given)
        # What a subnet inherits was trained on these pictures already.
        task = task_of_training(
            opened(spec["data"], recipe.resolution_px), spec.get("replays", base is not None), spec.get("learned", 0)
        )
        alone = spec.get("alone")
        family = rebuilt(alone) if alone else space(recipe.space, recipe.resolution_px)
        if spec.get("tuning_trials"):
            recipe = tuned(task, family, recipe, workdir / "tuning", spec["tuning_trials"], context.progress)
        history = Trainer(task, family, recipe, path, base).run(_telling(context, recipe.epochs))
    except (ValueError, OptunaMissing) as error:
        raise JobError(str(error)) from error
    return {
        "checkpoint": str(path),
        "accuracy_largest": history[-1].accuracy_largest,
        "accuracy_smallest": history[-1].accuracy_smallest,
        "history": [asdict(point) for point in history],
        "recipe": asdict(recipe),
        "space": family.settings,
        "subnet_count": family.count(),
    }


def task_of_training(everything: Task, continues: bool, learned: int) -> Task:
    """Return the task; when training on, pictures that the base has not `learned` are seen often enough among the old ones."""
    newest = everything.newest(learned) if continues else None
    if newest is None or newest.count >= _NEWEST_SHARE * everything.count:
        return everything
    return Mixed([everything, newest], [1 - _NEWEST_SHARE, _NEWEST_SHARE])


def _telling(context: JobContext, epochs: int) -> Any:
    told_at, told_epoch = 0.0, -1

    def tell(fraction: float, point: Point | None, loss: float) -> None:
        nonlocal told_at, told_epoch
        epoch = point.epoch if point else 0
        if time.monotonic() - told_at < _SECONDS_BETWEEN_NEWS and epoch == told_epoch:
            return
        told_at = time.monotonic()
        if point is not None and epoch != told_epoch:
            told_epoch = epoch
            context.progress(fraction, f"epoch {epoch} of {epochs}", **asdict(point))
        else:
            context.progress(fraction, f"epoch {min(epoch + 1, epochs)} of {epochs}", running_loss=loss)

    return tell
