"""Train a project's supernet. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from milonga_hub.jobs import JobContext, JobError
from milonga_hub.learning.data import load
from milonga_hub.learning.train import Point, Recipe, Trainer

_SECONDS_BETWEEN_NEWS = 0.5


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return the checkpoint, the accuracies of the largest and smallest subnet, and the training curve."""
    torch.set_num_threads(spec["threads"] or torch.get_num_threads())
    context.progress(0.0, "loading pictures")
    data = load(spec["data"])
    recipe = Recipe(
        space=spec["space"],
        resolution_px=spec["resolution_px"],
        epochs=spec["epochs"],
        batch_size=spec["batch_size"],
        learning_rate=spec["learning_rate"],
        seed=spec["seed"],
    )
    base = Path(spec["base_checkpoint"]) if spec["base_checkpoint"] else None
    path = workdir / "checkpoint.pt"
    try:
        trainer = Trainer(data, recipe, path, base)
    except ValueError as error:
        raise JobError(str(error)) from error
    history = trainer.run(_telling(context, recipe.epochs))
    return {
        "checkpoint": str(path),
        "accuracy_largest": history[-1].accuracy_largest,
        "accuracy_smallest": history[-1].accuracy_smallest,
        "mean": data.mean,
        "std": data.std,
        "history": [asdict(point) for point in history],
    }


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
