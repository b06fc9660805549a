"""What a run may do next."""

from __future__ import annotations

from collections.abc import Sequence

from milonga_hub.projects.models import Limits, ProjectSpec, SearchStrategy
from milonga_hub.runs.models import (
    BASELINE_STAGES,
    FINETUNE,
    IMPORT_STAGES,
    STAGES,
    RunState,
    Stage,
    StageState,
    Trigger,
)

ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
# What starts runs without a person.
AUTOMATIC = frozenset({Trigger.DRIFT, Trigger.ACCURACY, Trigger.NEW_LABELS, Trigger.SCHEDULE})


def tightest(limits: Sequence[Limits]) -> Limits:
    """Return limits that hold for every device whose own limits are given."""

    def lowest(values: Sequence[float | None]) -> float | None:
        return min((value for value in values if value is not None), default=None)

    model_bytes = lowest([limit.model_bytes for limit in limits])
    memory_bytes = lowest([limit.memory_bytes for limit in limits])
    floors = [limit.min_accuracy for limit in limits if limit.min_accuracy is not None]
    return Limits(
        min_accuracy=max(floors, default=None),
        latency_ms=lowest([limit.latency_ms for limit in limits]),
        model_bytes=None if model_bytes is None else int(model_bytes),
        memory_bytes=None if memory_bytes is None else int(memory_bytes),
    )


def continues(base: ProjectSpec, now: ProjectSpec) -> bool:
    """Whether a supernet trained under one spec can be trained on under the other."""
    return (base.training.space, base.training.resolution_px) == (now.training.space, now.training.resolution_px)


def stages_of(spec: ProjectSpec, trigger: Trigger = Trigger.MANUAL) -> list[Stage]:
    """Return the stages of a run that has not begun, in the order in which they come."""
    if trigger is Trigger.IMPORT:
        return [Stage(name=name) for name in IMPORT_STAGES]
    if spec.search.strategy is SearchStrategy.BASELINE:
        return [Stage(name=name) for name in BASELINE_STAGES]
    extra = {"search": [FINETUNE]} if spec.training.finetune_epochs else {}
    return [Stage(name=each) for name in STAGES for each in (name, *extra.get(name, []))]


def reopened(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages of an ended run as they are when it goes on: what succeeded stays, the rest waits again."""
    return [
        stage
        if stage.state in (StageState.SUCCEEDED, StageState.SKIPPED)
        else Stage(name=stage.name, attempts=stage.attempts)
        for stage in stages
    ]
