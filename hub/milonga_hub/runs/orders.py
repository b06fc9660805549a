"""What the jobs of a run are asked for, as plain values of what the run decided: the same wherever they are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.profiled import Profiled


@dataclass(frozen=True)
class Place:
    """Where jobs are done: the path of what they train on, "" where there is none, and the threads of each kind of job."""

    data: str
    threads: Callable[[str], int]


def training(plan: RunPlan, place: Place) -> dict[str, Any]:
    """Return what the training job is asked for: all of the project's space, from nothing."""
    training = plan.spec.training
    return {
        "data": place.data,
        "space": training.space,
        "resolution_px": training.resolution_px,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "seed": training.seed,
        "threads": place.threads("train"),
        "patience": training.patience,
        "tuning_trials": training.tuning_trials,
        "base_checkpoint": None,
    }


def training_on(plan: RunPlan, place: Place, base: str) -> dict[str, Any]:
    """Return what the training job is asked for where it trains on from a supernet."""
    epochs = plan.spec.training.retrain_epochs
    return {
        **training(plan, place),
        "base_checkpoint": base,
        "epochs": epochs,
        "tuning_trials": 0,
        "learned": plan.base_learned,
    }


def fine_tuning(
    plan: RunPlan, place: Place, trained: Mapping[str, Any], candidate: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what trains a subnet on alone, from the weights that it inherits."""
    return {
        **training(plan, place),
        "alone": {**trained["space"], "fixed": candidate["encoding"]},
        "base_checkpoint": trained["checkpoint"],
        "epochs": plan.spec.training.finetune_epochs,
        "tuning_trials": 0,
        "replays": bool(plan.base_supernet),
        "learned": plan.base_learned,
    }


def assessing(plan: RunPlan, place: Place, checkpoint: str, targets: Sequence[str]) -> dict[str, Any]:
    """Return what judges a network that was trained alone."""
    return {"checkpoint": checkpoint, "data": place.data, "targets": targets, "threads": place.threads("assess")}


def profiling(
    plan: RunPlan,
    place: Place,
    checkpoint: str,
    history: Sequence[Mapping[str, Any]],
    types: Sequence[TypePlan] | None = None,
    again: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return what chooses the first subnets to measure on these types, or on all; `history` is what other device types measured
    before, `again` what is to be measured again: {"encoding", "target"}.
    """
    return {
        "checkpoint": checkpoint,
        "count": plan.spec.search.measured_subnets,
        "targets": plan.searched if types is None else plan.searched_for(types),
        "again": list(again),
        "elsewhere": history,
        "seed": plan.spec.search.seed,
        "threads": place.threads("profile"),
    }


def judging(
    plan: RunPlan, place: Place, checkpoint: str, profiled: Profiled, left: Mapping[str, int]
) -> dict[str, Any]:
    """Return what judges latency models; of each type so many measurements may still be asked for."""
    return {
        "checkpoint": checkpoint,
        "costs": profiled.costs,
        "types": [
            {
                "name": item.name,
                "engine": item.engine,
                "measurements": profiled.measured[item.name],
                "elsewhere": profiled.elsewhere(item.name),
                "left": left[item.name],
            }
            for item in plan.types
        ],
        "seed": plan.spec.search.seed,
        "threads": place.threads("judge"),
    }


def searching(plan: RunPlan, place: Place, checkpoint: str, profiled: Profiled) -> dict[str, Any]:
    """Return what searches a subnet for each device type."""
    search = plan.spec.search
    return {
        "checkpoint": checkpoint,
        "costs": profiled.costs,
        "data": place.data,
        "types": [
            {
                "name": item.name,
                "limits": item.limits.model_dump(exclude_none=True, exclude={"selector"}),
                "engine": item.engine,
                "measurements": profiled.good(item.name),
                "elsewhere": profiled.elsewhere(item.name),
            }
            for item in plan.types
        ],
        "evaluated_subnets": search.evaluated_subnets,
        "population": search.population,
        "generations": search.generations,
        "verified_candidates": search.verified_candidates,
        "seed": search.seed,
        "threads": place.threads("search"),
    }


@dataclass(frozen=True)
class Made:
    """For whom a build is made, and where kernels that were tuned for it are kept."""

    project: str
    model_version: str
    tuning_database: str


def building(
    plan: RunPlan, place: Place, item: TypePlan, candidate: Mapping[str, Any], measured_ms: float | None, made: Made
) -> dict[str, Any]:
    """Return what builds a device type's subnet for all of its targets."""
    return {
        "onnx": candidate["onnx"],
        "expected": candidate["expected"],
        "subnet_accuracy": candidate["subnet_accuracy"],
        "data": place.data,
        "targets": item.targets,
        "architecture": item.architecture,
        "max_accuracy_loss_points": plan.spec.build.max_accuracy_loss_points,
        "calibration_count": plan.spec.build.calibration_count,
        "manifest": {
            "project": made.project,
            "model_version": made.model_version,
            "subnet": candidate["subnet"],
            "classes": plan.classes,
            "task": plan.spec.task.value.lower(),
            "size_px": candidate["resolution_px"],
            "expected_ms": measured_ms,
        },
        **({"input": candidate["input"]} if "input" in candidate else {}),
        "told": candidate.get("told") or plan.spec.detection.model_dump(),
        "seed": plan.spec.training.seed,
        "threads": place.threads("build"),
        "tuning_minutes": plan.spec.build.tuning_minutes,
        "tuning_database": made.tuning_database,
    }


def comparing(plan: RunPlan, place: Place, champion: str, challenger: str, learned: int = 0) -> dict[str, Any]:
    """Return what holds two bundles, given by their folders, against each other; the champion `learned` from the data set's version of this number."""
    return {
        "champion": champion,
        "challenger": challenger,
        "data": place.data,
        "max_class_loss_points": plan.spec.build.max_class_loss_points,
        "learned": learned,
    }
