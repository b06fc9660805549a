"""A run with a model that was trained elsewhere: nothing is trained or searched, every device type gets the same network."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from milonga_hub.errors import FailedPrecondition
from milonga_hub.models.models import ImportedModel
from milonga_hub.runs.candidates import Choice, Specialised
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.prepare import planned_types
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work


async def prepare_imported(work: Work, imported: ImportedModel, report: Report) -> tuple[RunPlan, Specialised]:
    """Return what is built for whom, and the network as the choice of all types, judged on the data set if there is one."""
    plan = RunPlan.read(work.folder)
    if plan is None:
        plan = _decided(work, imported)
        plan.write(work.folder)
    work.services.runs.change(work.run.name, dataset_version=plan.dataset_version)
    network = await asyncio.to_thread(_network, work, imported)
    if plan.dataset_version:
        report(0.1, f"preparing pictures of {plan.dataset_version}")
        await asyncio.to_thread(
            work.services.datasets.write_training_data, plan.dataset_version, imported.size_px, work.folder
        )
    told = plan.spec.detection.model_dump()
    if imported.end_to_end:
        told["iou_threshold"] = 1.0  # No two boxes overlap by more: none is suppressed.
    spec = {
        "onnx": str(network),
        "input": imported.input.described(),
        "classes": imported.classes,
        "data": work.data(plan),
        "told": told,
        "threads": work.threads(plan, "original"),
    }
    judged = await work.job("original", "original", spec, report.of_job(0.3, 0.95))
    candidate = {
        "subnet": imported.network,
        "accuracy": judged["accuracy"],
        "subnet_accuracy": judged["accuracy"],
        "onnx": str(network),
        "expected": judged["expected"],
        "checkpoint": "",
        "resolution_px": imported.size_px,
        "input": spec["input"],
        "told": told,
    }
    report(1.0, "; ".join([f"{_how_good(judged)}, for {plan.for_whom}", *_unreferenced(judged), *imported.notes]))
    return plan, Specialised({item.name: Choice(item, candidate, None) for item in plan.types}, {})


def _decided(work: Work, imported: ImportedModel) -> RunPlan:
    spec = work.services.runs.spec(work.run.name)
    if imported.task is not spec.task:
        raise FailedPrecondition(
            f"the project is for {spec.task.lower()} now, and the model for {imported.task.lower()}"
        )
    dataset = work.services.datasets.latest(imported.dataset).name if imported.dataset else ""
    return RunPlan(spec=spec, dataset_version=dataset, classes=imported.classes, types=planned_types(work, spec))


def _network(work: Work, imported: ImportedModel) -> Path:
    """Return the network in the run's folder: engines know files by their ending."""
    path = work.folder / "network.onnx"
    if not path.exists():
        part = path.with_name(".network.part")
        work.services.blobs.copy_to(imported.network, part)
        part.replace(path)
    return path


def _how_good(judged: dict[str, Any]) -> str:
    if judged["accuracy"] is None:
        return "held against ONNX's reference"
    return f"the network itself reaches {judged['accuracy']:.1%} {judged['measure']} on {judged['count']} pictures"


def _unreferenced(judged: dict[str, Any]) -> list[str]:
    why = judged["unreferenced"]
    return [f"held against ONNX Runtime alone, ONNX's reference did not run it: {why}"] if why else []
