"""A project from five plain questions: what to find, where, how fast, how small, and what matters most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import yaml

from milonga_hub.projects.models import PROJECT_FILE, BuildSpec, Limits, ProjectSpec, RolloutSpec, TrainingSpec
from milonga_hub.tasks import Task


class Priority(StrEnum):
    """What yields last. Of all networks within the limits the most accurate one is taken, so limits decide the rest."""

    BALANCED = "BALANCED"
    ACCURACY = "ACCURACY"
    SPEED = "SPEED"
    SIZE = "SIZE"


@dataclass(frozen=True)
class Answers:
    """None of a limit: it does not bind. `typical_px` is the shorter side of the pictures, where it is known."""

    dataset: str
    task: Task
    device_types: Sequence[str] = ()
    selector: str = ""
    latency_ms: float | None = None
    model_bytes: int | None = None
    priority: Priority = Priority.BALANCED
    typical_px: int | None = None
    # Whether somebody is asked before a better version goes out, and how long each wave must stay healthy.
    approval: bool = False
    soak_seconds: float = RolloutSpec().soak_seconds


@dataclass(frozen=True)
class _Training:
    """What is trained for a priority: the space, at most so many pixels, for so long; then each chosen subnet by itself."""

    space: str
    most_px: int
    epochs: int
    finetune_epochs: int = 0


# More pixels see more and cost more, in training and on the device; larger pictures than the data set's gain nothing.
# Detectors gain much by epochs of their own after the supernet's (docs/learning.md); classifiers are good as they come.
_TRAINING = {
    (Task.CLASSIFICATION, Priority.ACCURACY): _Training("mbv3", 160, 60),
    (Task.CLASSIFICATION, Priority.SPEED): _Training("mbv3", 64, 30),
    (Task.CLASSIFICATION, Priority.BALANCED): _Training("mbv3", 96, 30),
    (Task.DETECTION, Priority.ACCURACY): _Training("yolo26s", 480, 100, 50),
    (Task.DETECTION, Priority.SPEED): _Training("yolo26n", 256, 60, 30),
    (Task.DETECTION, Priority.BALANCED): _Training("yolo26n", 320, 60, 30),
}
_STEP_PX = 32
# Points of accuracy that a build may lose, for instance by 8-bit arithmetic.
_MAY_LOSE = {Priority.ACCURACY: 0.2, Priority.BALANCED: 0.5, Priority.SPEED: 1.0, Priority.SIZE: 1.0}


def problems(answers: Answers) -> dict[str, str]:
    """Return what is wrong with the answers together, by the question where it is put right."""
    if answers.priority is Priority.SPEED and answers.latency_ms is None:
        return {"priority": "Speed matters most: say above how fast it must be; half of that becomes the limit."}
    if answers.priority is Priority.SIZE and answers.model_bytes is None:
        return {"priority": "Size matters most: say above how small it must be; half of that becomes the limit."}
    return {}


def spec_of(answers: Answers) -> ProjectSpec:
    """Return the project that the answers ask for."""
    return ProjectSpec(
        task=answers.task,
        dataset=answers.dataset,
        selector=selector_of(answers.device_types, answers.selector),
        limits=_limits(answers),
        training=_training(answers),
        build=BuildSpec(max_accuracy_loss_points=_MAY_LOSE[answers.priority]),
        rollout=RolloutSpec(approval=answers.approval, soak_seconds=answers.soak_seconds),
    )


def selector_of(device_types: Sequence[str], selector: str) -> str:
    """Return the selector of devices that are of one of the types, if any are named, and match the selector."""
    quoted = ", ".join(f'"{name}"' if not name.replace("-", "").isalnum() else name for name in device_types)
    of_types = f"type in ({quoted})" if len(device_types) > 1 else f"type={quoted}" if device_types else ""
    return ", ".join(part for part in (of_types, selector.strip()) if part)


def _limits(answers: Answers) -> list[Limits]:
    latency_ms, model_bytes = answers.latency_ms, answers.model_bytes
    if latency_ms is not None and answers.priority is Priority.SPEED:
        latency_ms /= 2
    if model_bytes is not None and answers.priority is Priority.SIZE:
        model_bytes = max(1, model_bytes // 2)
    return [] if latency_ms is model_bytes is None else [Limits(latency_ms=latency_ms, model_bytes=model_bytes)]


def _training(answers: Answers) -> TrainingSpec:
    # A network's pixels change how fast it is, not how many bytes it has.
    priority = Priority.BALANCED if answers.priority is Priority.SIZE else answers.priority
    row = _TRAINING[answers.task, priority]
    useful_px = -(-(answers.typical_px or row.most_px) // _STEP_PX) * _STEP_PX
    return TrainingSpec(
        space=row.space,
        resolution_px=max(_STEP_PX, min(row.most_px, useful_px)),
        epochs=row.epochs,
        finetune_epochs=row.finetune_epochs,
    )


def document(name: str, spec: ProjectSpec) -> str:
    """Return the project as the YAML that `milonga apply -f` takes, without what is left at its default."""
    said = {
        "task": spec.task.value,
        "dataset": spec.dataset,
        "selector": spec.selector,
        **spec.model_dump(mode="json", exclude_defaults=True, exclude={"task", "dataset", "selector"}),
    }
    text: str = yaml.safe_dump({"kind": PROJECT_FILE.name, "name": name, "spec": said}, sort_keys=False)
    return text
