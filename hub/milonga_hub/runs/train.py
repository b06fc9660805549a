"""Train what a run needs: the supernet, or networks alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from milonga_hub.jobs import Progress
from milonga_hub.runs import orders
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work


async def train(work: Work, plan: RunPlan, report: Report) -> dict[str, Any]:
    """Train the supernet, on from an earlier one where the plan names it."""
    spec = orders.training(plan, work.place(plan))
    if plan.base_supernet:
        base = str(await asyncio.to_thread(_base, work, plan.base_supernet))
        spec = orders.training_on(plan, work.place(plan), base)
    result = await trained(work, "train", spec, report.of_job())
    # Trainings that ended under an earlier version did not count them.
    counted = {"subnets": float(result["subnet_count"])} if "subnet_count" in result else {}
    report(
        1.0,
        f"{plan.spec.task.measure} of the smallest subnet {result['accuracy_smallest']:.1%}, of the largest"
        f" {result['accuracy_largest']:.1%}" + (f", trained on from {plan.base_run}" if plan.base_supernet else ""),
        accuracy_largest=result["accuracy_largest"],
        accuracy_smallest=result["accuracy_smallest"],
        **counted,
    )
    return result


def _base(work: Work, digest: str) -> Path:
    """Return the earlier supernet in the run's folder, where it stays as long as the job needs it."""
    path = work.folder / "base.pt"
    if not path.exists():
        part = path.with_name(".base.part")
        work.services.blobs.copy_to(digest, part)
        part.replace(path)
    return path


async def assess(
    work: Work, plan: RunPlan, folder: str, checkpoint: str, targets: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return by target how accurate a network is that was trained alone, and what its builds are made from and held against."""
    spec = orders.assessing(plan, work.place(plan), checkpoint, targets)
    result = await work.job("assess", folder, spec, lambda progress: None)
    found: dict[str, dict[str, Any]] = result["targets"]
    return found


async def trained(
    work: Work, folder: str, spec: dict[str, Any], tell: Callable[[Progress], None], epochs_before: int = 0
) -> dict[str, Any]:
    """Return the result of a training in this folder of the run, whose epochs follow those of earlier ones in the run's curve."""
    seen: set[float] = set()

    def add(points: Sequence[Mapping[str, float]]) -> None:
        work.services.runs.add_training_points(
            work.run.name,
            [
                {
                    **{name: float(value) for name, value in point.items()},
                    "epoch": float(point["epoch"] + epochs_before),
                }
                for point in points
            ],
        )

    def told(progress: Progress) -> None:
        epoch = progress.metrics.get("epoch")
        if epoch is not None and "loss" in progress.metrics and epoch not in seen:
            seen.add(epoch)
            add([progress.metrics])
        tell(progress)

    result = await work.job("train", folder, spec, told)
    # With the epochs that ended while no hub was there to hear of them.
    add(result["history"])
    return result
