"""What a run may do next, and when a policy wants one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from milonga_hub.projects.models import DriftPolicy, Limits, ProjectSpec, SearchStrategy
from milonga_hub.runs.models import BASELINE_STAGES, STAGES, Run, RunState, Stage, StageState
from milonga_hub.telemetry.models import DriftEvent

ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


@dataclass(frozen=True)
class Retraining:
    """Why a policy starts a run, and the events that it answers."""

    reason: str
    event_ids: tuple[str, ...]


def retraining_due(
    policy: DriftPolicy,
    events: Sequence[DriftEvent],
    new_labels: int,
    latest: Run | None,
    now: datetime,
) -> Retraining | None:
    """Return the retraining that unanswered drift calls for, or None while it should wait.

    It waits for a quorum of devices, for labels of the new kind (retraining on the old ones would learn nothing of the
    drift), for the run in progress, and for the cool-down after the last one.
    """
    devices = {event.device for event in events}
    if not policy.enabled or not events or len(devices) < policy.quorum or new_labels < policy.min_new_labels:
        return None
    if latest is not None and latest.state not in ENDED:
        return None
    if latest is not None and latest.ended_at is not None and now - latest.ended_at < policy.cool_down:
        return None
    signals = sorted({event.signal for event in events})
    names = ", ".join(sorted(devices))
    strongest = max(event.statistic for event in events)
    reason = (
        f"drift in {', '.join(signals)} on {names} (stability index up to {strongest:.2f},"
        f" {policy.threshold:g} allowed); {new_labels} new labelled pictures"
    )
    return Retraining(reason, tuple(event.id for event in events))


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


def stages_of(spec: ProjectSpec) -> list[Stage]:
    """Return the stages of a run that has not begun, in the order in which they come."""
    names = BASELINE_STAGES if spec.search.strategy is SearchStrategy.BASELINE else STAGES
    return [Stage(name=name) for name in names]


def reopened(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages of an ended run as they are when it goes on: what succeeded stays, the rest waits again."""
    return [
        stage
        if stage.state in (StageState.SUCCEEDED, StageState.SKIPPED)
        else Stage(name=stage.name, attempts=stage.attempts)
        for stage in stages
    ]
