"""How far each device of a rollout is, step by step, and when each wave was under way, as pages show it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from milonga_hub.rollouts.models import RolloutDevice, RolloutDeviceState, RolloutView, Step

# In the order of the agent's plan; some rollouts have no device that goes through all of them.
_ORDER = (
    Step.DOWNLOAD,
    Step.VERIFY,
    Step.INSTALL,
    Step.BUILD,
    Step.PROBE,
    Step.SHADOW,
    Step.ACTIVATE,
    Step.COMMIT,
)
_SOME_ONLY = (Step.BUILD, Step.SHADOW)


class StepState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Span:
    """When a wave was under way: until it had soaked, or still."""

    index: int
    began: datetime | None
    ended: datetime | None
    succeeded: int
    failed: int
    count: int
    # When each of its devices had the version for good, oldest first.
    arrivals: tuple[datetime, ...]


def columns(rollout: RolloutView, devices: Iterable[RolloutDevice]) -> tuple[Step, ...]:
    """Return the steps that devices of the rollout go through, without those that none of them has."""
    seen = {device.step for device in devices}
    if rollout.spec.shadow is not None:
        seen.add(Step.SHADOW)
    return tuple(step for step in _ORDER if step not in _SOME_ONLY or step in seen)


def step_states(device: RolloutDevice, steps: Iterable[Step]) -> list[StepState]:
    """Return how the device stands with each step: those before the one it told of last are behind it."""
    if device.state is RolloutDeviceState.SUCCEEDED:
        return [StepState.SUCCEEDED for _ in steps]
    if device.step is None or device.step not in _ORDER:
        # Rolled back, or nothing is heard of it yet: which step it was is in its message.
        return [StepState.PENDING for _ in steps]
    at = _ORDER.index(device.step)
    # Of one that nobody looks after any more it is not known whether it is still at that step.
    nows = {RolloutDeviceState.FAILED: StepState.FAILED, RolloutDeviceState.TOLD: StepState.PENDING}
    now = nows.get(device.state, StepState.RUNNING)
    return [_state(_ORDER.index(step), at, now) for step in steps]


def _state(place: int, at: int, now: StepState) -> StepState:
    if place == at:
        return now
    return StepState.SUCCEEDED if place < at else StepState.PENDING


def spans(rollout: RolloutView) -> list[Span]:
    """Return when each wave was under way; one that was cut short by the rollout's end ended then."""
    return [
        Span(
            wave.index,
            wave.started_at,
            wave.soaked_at or (rollout.ended_at if wave.started_at else None),
            wave.succeeded_count,
            wave.failed_count,
            wave.device_count,
            tuple(sorted(_arrivals(rollout, wave.index))),
        )
        for wave in rollout.waves
    ]


def _arrivals(rollout: RolloutView, wave: int) -> Iterable[datetime]:
    for device in rollout.devices:
        if device.wave == wave and device.state is RolloutDeviceState.SUCCEEDED and device.updated_at is not None:
            yield device.updated_at


def began(rollout: RolloutView) -> datetime | None:
    """Return when the first device was given the version; None before."""
    return min((wave.started_at for wave in rollout.waves if wave.started_at is not None), default=None)
