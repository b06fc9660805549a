"""How a rollout goes forward: what became of its devices, and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from milonga_hub.devices.selectors import Selector, parse
from milonga_hub.errors import InvalidInput
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, RolloutState, Step, Wave
from milonga_hub.rollouts.needs import Requests
from milonga_hub.rollouts.rules_failures import named, too_many_failures
from milonga_hub.rollouts.rules_requests import too_many_errors
from milonga_hub.times import opening, window, zone

ENDED = (RolloutDeviceState.SUCCEEDED, RolloutDeviceState.FAILED)


def selector_of(wanted: str, own: str, *, is_limited: bool) -> str:
    """Return whom a rollout is for: the devices of its project, or others where its caller may choose among all.

    Who is limited to projects chooses among the project's own devices.
    """
    if is_limited and wanted and own:
        return str(Selector(parse(own).conditions + parse(wanted).conditions))
    return wanted or own


@dataclass(frozen=True)
class Report:
    """What is known of a device now. `step` and `message` are those of the rollout's generation."""

    device: str
    online: bool
    assigned_generation: int = 0
    # Of the newest assignment; looked up only where the rollout may have made it without noting so.
    assigned_bundle: str = ""
    assigned_project: str = ""
    reported_generation: int = 0
    active_bundle: str = ""
    step: Step | None = None
    message: str = ""
    # What it said of running beside the version before, empty while it has not.
    shadow: str = ""
    seen_at: datetime | None = None
    time_zone: str = ""


@dataclass(frozen=True)
class Assign:
    """Give these devices their build, now that their wave has been reached."""

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
class RollBack:
    """Too much failed; devices go back to the version before."""

    reason: str


@dataclass(frozen=True)
class Succeed:
    """All waves have ended well; devices that come late or join later are still looked after."""

    reason: str = ""


Action = Assign | Wait | EndWave | Pause | RollBack | Succeed


def observed(
    rollout: Rollout, reports: Mapping[str, Report], now: datetime, claims: Mapping[str, str] = {}
) -> tuple[list[RolloutDevice], list[Wave]]:
    """Return devices and waves as the reports show them. A device without a report does not exist any more.

    Claims tell, by device, which newer rollout of another project, or of agents, took it.
    """
    devices = [
        _observed(rollout, device, reports.get(device.device), now, claims.get(device.device, ""))
        for device in rollout.devices
    ]
    return devices, counted(rollout.waves, devices)


def counted(waves: Sequence[Wave], devices: Sequence[RolloutDevice]) -> list[Wave]:
    """Return the waves with what became of their devices."""
    found = []
    for wave in waves:
        states = [device.state for device in devices if device.wave == wave.index]
        counts = {
            "device_count": len(states),
            "succeeded_count": states.count(RolloutDeviceState.SUCCEEDED),
            "failed_count": states.count(RolloutDeviceState.FAILED),
        }
        found.append(wave.model_copy(update=counts))
    return found


def is_owed(waves: Sequence[Wave]) -> bool:
    """Whether a device of these waves has not ended."""
    return any(wave.succeeded_count + wave.failed_count < wave.device_count for wave in waves)


def _observed(
    rollout: Rollout, device: RolloutDevice, report: Report | None, now: datetime, taken_by: str
) -> RolloutDevice:
    if device.wave == LEFT_OUT:
        return device
    if report is None:
        # A machine that joins under its name begins anew.
        gone = {"message": "the device was deleted or revoked", "generation": 0, "since_generation": 0}
        return left_out(device, now, **gone)
    if taken_by and rollout.agent_version:
        # Of two wishes for an agent no generation tells whose they are: the newest that names a device has it.
        taken = left_out(device, now, message=_took(taken_by), step=None)
        return device if device.state is RolloutDeviceState.SUCCEEDED else taken
    late = is_late(rollout.spec, report, now)
    if late != device.late:
        device = device.model_copy(update={"late": late})
    if device.generation == 0 and _is_own(rollout, device, report):
        # The hub ended before it could note this wish; the device may have failed at it since.
        device = device.model_copy(update={"generation": report.assigned_generation, "updated_at": now})
    if device.generation == 0 or _has_ended_well(rollout, device):
        return device
    outcome = _outcome(device, report)
    if outcome is None:
        why = _took(taken_by) if taken_by else "a later assignment took the place of this one"
        return left_out(device, now, message=why, step=None, shadow="")
    state, message = outcome
    seen = {
        "state": state,
        "message": message,
        "step": report.step or device.step,
        "shadow": report.shadow or device.shadow,
    }
    if all(getattr(device, name) == value for name, value in seen.items()):
        return device
    # The soak counts from the success itself, not from later remarks on it.
    updated_at = device.updated_at if state == device.state and state in ENDED else now
    return device.model_copy(update={**seen, "updated_at": updated_at})


def _is_own(rollout: Rollout, device: RolloutDevice, report: Report) -> bool:
    """Whether the newest assignment of the device is one that this rollout made."""
    wish = report.assigned_bundle, report.assigned_project
    return report.assigned_generation > device.since_generation and wish == (device.bundle, rollout.project)


def left_out(device: RolloutDevice, now: datetime, **values: object) -> RolloutDevice:
    """Return the device as one that is no concern of its rollout any more."""
    out = {"wave": LEFT_OUT, "state": RolloutDeviceState.FAILED, "updated_at": now, "late": False}
    return device.model_copy(update={**out, **values})


def _took(rollout: str) -> str:
    return f"the newer rollout {rollout} took it"


def _has_ended_well(rollout: Rollout, device: RolloutDevice) -> bool:
    """Whether what the device does from now on is no concern of the rollout any more."""
    return rollout.state is RolloutState.SUCCEEDED and device.state is RolloutDeviceState.SUCCEEDED


def is_late(spec: RolloutSpec, report: Report, now: datetime) -> bool:
    """Whether the device has been off line for longer than anybody waits; where a clock was set back, it has not."""
    if report.online or spec.late_after_seconds is None:
        return False
    return report.seen_at is None or now - report.seen_at > timedelta(seconds=spec.late_after_seconds)


def _outcome(device: RolloutDevice, report: Report) -> tuple[RolloutDeviceState, str] | None:
    """Return how the device stands, and why; None where a later wish, of a newer rollout, has won."""
    ended = report.reported_generation >= device.generation
    if ended and report.active_bundle == device.bundle:
        return RolloutDeviceState.SUCCEEDED, ""
    if max(report.assigned_generation, report.reported_generation) > device.generation:
        return None
    if ended and device.state is RolloutDeviceState.SUCCEEDED and not report.active_bundle:
        # An agent that is just starting serves nothing for a moment.
        return RolloutDeviceState.SUCCEEDED, "serves nothing at the moment"
    if ended:
        return RolloutDeviceState.FAILED, report.message or "the device serves another bundle"
    if report.online:
        return RolloutDeviceState.ASSIGNED, report.message
    return RolloutDeviceState.WAITING, "off line; gets it when it connects"


def next_action(
    rollout: Rollout, reports: Mapping[str, Report], now: datetime, asked: Mapping[str, Requests] = {}
) -> Action:
    """Return what to do for a rollout whose devices and waves are as observed() says, and clients asked so much by version.

    A wave ends when every device of it has reported and those that succeeded have stayed so for `soak_seconds`. One
    that is off line is waited for, unless the spec says when it is late: the alternative, a rollout that says it is
    complete and is not, is worse. No device begins while a wave has failed.
    """
    if failure := too_many_failures(rollout):
        return _stopped(rollout, failure, "resume to try them again, or abort")
    if failure := too_many_errors(rollout, asked):
        return _stopped(rollout, failure, "resume to count anew, or abort")
    wave = next((wave for wave in rollout.waves if wave.soaked_at is None), None)
    reached = wave.index if wave else len(rollout.waves)
    behind = [device for device in rollout.devices if 0 <= device.wave <= reached and device.generation == 0]
    ready = _ready(rollout, behind, reports, now)
    if ready:
        return Assign(reached, tuple(device.device for device in ready))
    if wave is None:
        return Succeed(_closing_words(rollout))
    members = [device for device in rollout.devices if device.wave == wave.index]
    if not members:
        # All of them were taken by newer rollouts, deleted, or match no more: nobody is left to be healthy.
        return EndWave(wave.index)
    place = f"wave {wave.index + 1} of {len(rollout.waves)}"
    unfinished = [device for device in members if device.state not in ENDED]
    waited_for = [device for device in unfinished if not device.late]
    if not waited_for and unfinished and not wave.succeeded_count:
        # A wave that nobody has tried says nothing about the next one.
        waited_for = unfinished
    if waited_for:
        return _wait_for(rollout, waited_for, reports, now, place)
    return _soak(rollout, wave, members, reports, now, place)


def _stopped(rollout: Rollout, why: str, advice: str) -> Pause | RollBack:
    # What has succeeded is not undone by one device that comes late.
    undone = rollout.spec.roll_back and rollout.state is RolloutState.RUNNING
    return RollBack(why) if undone else Pause(f"{why}; {advice}")


def _ready(
    rollout: Rollout, behind: Sequence[RolloutDevice], reports: Mapping[str, Report], now: datetime
) -> list[RolloutDevice]:
    """Return those that may begin now: in order of priority, in their windows, within the limit on how many at a time.

    Where there are windows or a limit, only those that are on line begin: others would take a place, or begin out of hours.
    """
    spec = rollout.spec
    ordered = sorted(behind, key=lambda device: (device.priority, device.wave))
    if not spec.windows and not spec.max_concurrent:
        return ordered
    ordered = [
        device
        for device in ordered
        if device.device in reports
        and reports[device.device].online
        and opens_at(spec, reports[device.device].time_zone, now) <= now
    ]
    if not spec.max_concurrent:
        return ordered
    under_way = sum(d.generation > 0 and d.state not in ENDED and not d.late for d in rollout.devices if d.wave >= 0)
    return ordered[: max(0, spec.max_concurrent - under_way)]


def opens_at(spec: RolloutSpec, time_zone: str, now: datetime) -> datetime:
    """Return when the device may begin: now, or when the next window opens where it stands. Without a zone that is UTC."""
    if not spec.windows:
        return now
    try:
        where = zone(time_zone or "UTC")
    except InvalidInput:
        where = zone("UTC")
    return opening([window(text) for text in spec.windows], where, now)


def _wait_for(
    rollout: Rollout, devices: Sequence[RolloutDevice], reports: Mapping[str, Report], now: datetime, place: str
) -> Wait:
    waiting = [device for device in devices if device.generation == 0 and device.device in reports]
    openings = {d.device: opens_at(rollout.spec, reports[d.device].time_zone, now) for d in waiting}
    closed = {name: opens for name, opens in openings.items() if opens > now}
    if closed and len(closed) == len(devices):
        first = min(closed, key=lambda name: closed[name])
        whose = f"the windows of {len(devices)} devices; the first" if len(devices) > 1 else "a window, which"
        said = f"waiting for {whose} opens {closed[first]:%Y-%m-%d %H:%M} UTC ({first})"
        return Wait(f"{place}: {said}", closed[first])
    return Wait(f"{place}: {_waiting_for(devices, reports)}", min(closed.values(), default=None))


def _soak(
    rollout: Rollout,
    wave: Wave,
    members: Sequence[RolloutDevice],
    reports: Mapping[str, Report],
    now: datetime,
    place: str,
) -> Action:
    ended = [device.updated_at for device in members if device.updated_at and device.state in ENDED]
    since = max(ended, default=wave.started_at or now)
    until = since + timedelta(seconds=rollout.spec.soak_seconds)
    if now < until:
        return Wait(f"{place}: no trouble so far; goes on at {until:%H:%M:%S} UTC", until)
    succeeded = [device for device in members if device.state is RolloutDeviceState.SUCCEEDED]
    unhealthy = [device for device in succeeded if not device.late and not _healthy(device, reports)]
    if unhealthy:
        return Wait(f"{place}: {named(unhealthy)} must be on line and well for the wave to end")
    return EndWave(wave.index)


def _healthy(device: RolloutDevice, reports: Mapping[str, Report]) -> bool:
    report = reports.get(device.device)
    return report is not None and report.online and report.active_bundle == device.bundle


def _waiting_for(devices: Sequence[RolloutDevice], reports: Mapping[str, Report]) -> str:
    absent = [device for device in devices if device.device in reports and not reports[device.device].online]
    count = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
    return f"waiting for {count}, {named(absent)} off line" if absent else f"waiting for {count}: {named(devices)}"


def _closing_words(rollout: Rollout) -> str:
    others = [device for device in rollout.devices if device.wave == LEFT_OUT]
    failed = [d for d in rollout.devices if d.wave != LEFT_OUT and d.state is RolloutDeviceState.FAILED]
    late = [device for device in rollout.devices if device.wave != LEFT_OUT and device.state not in ENDED]
    parts = [f"{named(failed)} failed, as many as were allowed"] if failed else []
    parts += [f"{named(late)} off line for long; gets it when it connects"] if late else []
    parts += [f"left out {named(others)}"] if others else []
    return "; ".join(parts)
