"""How a rollout goes forward: which devices in which wave, and what to do next. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, Step, Wave

ENDED = (RolloutDeviceState.SUCCEEDED, RolloutDeviceState.FAILED)
_NAMED = 3


@dataclass(frozen=True)
class Report:
    """What is known of a device now. `step` and `message` are those of the rollout's generation."""

    device: str
    online: bool
    assigned_generation: int = 0
    reported_generation: int = 0
    active_bundle: str = ""
    step: Step | None = None
    message: str = ""


@dataclass(frozen=True)
class Assign:
    """Give these devices their build: their wave begins."""

    wave: int
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until`, or before a device reports."""

    reason: str
    until: datetime | None = None


@dataclass(frozen=True)
class EndWave:
    """The wave has stayed healthy for as long as it must."""

    wave: int


@dataclass(frozen=True)
class Pause:
    """Too many failed; a person decides."""

    reason: str


@dataclass(frozen=True)
class Succeed:
    """All waves have ended well."""

    reason: str = ""


Action = Assign | Wait | EndWave | Pause | Succeed


def plan_waves(devices: Sequence[str], shares: Sequence[float], seed: str) -> list[list[str]]:
    """Return the waves: each device once, the first wave never empty, no wave empty, about the shares asked for.

    Who comes first depends on `seed`, so that it is not the same device that takes the risk every time; the same seed
    gives the same waves whatever the order of the devices.
    """
    order = sorted(set(devices), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    waves, taken, share = [], 0, 0.0
    for index, part in enumerate(shares):
        share += part
        end = len(order) if index == len(shares) - 1 else round(share * len(order))
        end = min(len(order), max(end, 1))
        if end > taken:
            waves.append(order[taken:end])
            taken = end
    return waves


def observed(rollout: Rollout, reports: Mapping[str, Report], now: datetime) -> tuple[list[RolloutDevice], list[Wave]]:
    """Return devices and waves as the reports show them. A device without a report does not exist any more."""
    devices = [_observed(device, reports.get(device.device), now) for device in rollout.devices]
    waves = []
    for wave in rollout.waves:
        states = [device.state for device in devices if device.wave == wave.index]
        counts = {
            "device_count": len(states),
            "succeeded_count": states.count(RolloutDeviceState.SUCCEEDED),
            "failed_count": states.count(RolloutDeviceState.FAILED),
        }
        waves.append(wave.model_copy(update=counts))
    return devices, waves


def _observed(device: RolloutDevice, report: Report | None, now: datetime) -> RolloutDevice:
    if device.wave == LEFT_OUT:
        return device
    if report is None:
        gone = {"wave": LEFT_OUT, "state": RolloutDeviceState.FAILED, "message": "the device was deleted"}
        return device.model_copy(update={**gone, "updated_at": now})
    if device.generation == 0:
        return device
    state, message = _outcome(device, report)
    seen = {"state": state, "message": message, "step": report.step or device.step}
    if all(getattr(device, name) == value for name, value in seen.items()):
        return device
    # The soak counts from the success itself, not from later remarks on it.
    updated_at = device.updated_at if state == device.state and state in ENDED else now
    return device.model_copy(update={**seen, "updated_at": updated_at})


def _outcome(device: RolloutDevice, report: Report) -> tuple[RolloutDeviceState, str]:
    ended = report.reported_generation >= device.generation
    if ended and report.active_bundle == device.bundle:
        return RolloutDeviceState.SUCCEEDED, ""
    if max(report.assigned_generation, report.reported_generation) > device.generation:
        return RolloutDeviceState.FAILED, "another assignment took the place of this one"
    if ended and device.state is RolloutDeviceState.SUCCEEDED and not report.active_bundle:
        # An agent that is just starting serves nothing for a moment.
        return RolloutDeviceState.SUCCEEDED, "serves nothing at the moment"
    if ended:
        return RolloutDeviceState.FAILED, report.message or "the device serves another bundle"
    if report.online:
        return RolloutDeviceState.ASSIGNED, report.message
    return RolloutDeviceState.WAITING, "off line; gets the model when it connects"


def next_action(rollout: Rollout, reports: Mapping[str, Report], now: datetime) -> Action:
    """Return what to do for a running rollout whose devices and waves are as observed() says.

    A wave ends when every device of it has reported and those that succeeded have stayed so for `soak_seconds`. One
    that is off line is waited for: the alternative, a rollout that says it is complete and is not, is worse.
    """
    failure = _too_many_failures(rollout)
    if failure:
        return Pause(failure)
    wave = next((wave for wave in rollout.waves if wave.soaked_at is None), None)
    if wave is None:
        return Succeed(_closing_words(rollout))
    new = tuple(d.device for d in rollout.devices if 0 <= d.wave <= wave.index and d.generation == 0)
    if new:
        return Assign(wave.index, new)
    members = [device for device in rollout.devices if device.wave == wave.index]
    place = f"wave {wave.index + 1} of {len(rollout.waves)}"
    unfinished = [device for device in members if device.state not in ENDED]
    if unfinished:
        return Wait(f"{place}: {_waiting_for(unfinished, reports)}")
    return _soak(rollout, wave, members, reports, now, place)


def _soak(
    rollout: Rollout,
    wave: Wave,
    members: Sequence[RolloutDevice],
    reports: Mapping[str, Report],
    now: datetime,
    place: str,
) -> Action:
    since = max((device.updated_at for device in members if device.updated_at), default=wave.started_at or now)
    until = since + timedelta(seconds=rollout.spec.soak_seconds)
    if now < until:
        return Wait(f"{place}: soaking until {until:%H:%M:%S} UTC", until)
    unhealthy = [d for d in members if d.state is RolloutDeviceState.SUCCEEDED and not _healthy(d, reports)]
    if unhealthy:
        return Wait(f"{place}: {_names(unhealthy)} must be on line and serving for the wave to end")
    return EndWave(wave.index)


def _healthy(device: RolloutDevice, reports: Mapping[str, Report]) -> bool:
    report = reports.get(device.device)
    return report is not None and report.online and report.active_bundle == device.bundle


def _too_many_failures(rollout: Rollout) -> str:
    for wave in rollout.waves:
        if wave.device_count and wave.failed_count / wave.device_count > rollout.spec.max_failure_ratio:
            failed = [d for d in rollout.devices if d.wave == wave.index and d.state is RolloutDeviceState.FAILED]
            said = "; ".join(f"{device.device}: {_failure(device)}" for device in failed[:_NAMED])
            more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
            return (
                f"wave {wave.index + 1}: {wave.failed_count} of {wave.device_count} devices failed "
                f"({said}{more}); resume to try them again, or abort"
            )
    return ""


def _failure(device: RolloutDevice) -> str:
    return f"{device.step.lower()}: {device.message}" if device.step else device.message


def _waiting_for(devices: Sequence[RolloutDevice], reports: Mapping[str, Report]) -> str:
    absent = [device for device in devices if device.device in reports and not reports[device.device].online]
    if absent:
        return f"waiting for {len(devices)} devices, {_names(absent)} off line"
    return f"waiting for {len(devices)} devices: {_names(devices)}"


def _closing_words(rollout: Rollout) -> str:
    left_out = [device for device in rollout.devices if device.wave == LEFT_OUT]
    failed = [d for d in rollout.devices if d.wave != LEFT_OUT and d.state is RolloutDeviceState.FAILED]
    parts = [f"{_names(failed)} failed, as many as were allowed"] if failed else []
    parts += [f"left out {_names(left_out)}"] if left_out else []
    return "; ".join(parts)


def _names(devices: Sequence[RolloutDevice]) -> str:
    shown = ", ".join(device.device for device in devices[:_NAMED])
    return f"{shown} and {len(devices) - _NAMED} more" if len(devices) > _NAMED else shown
