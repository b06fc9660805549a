"""What is wrong with a fleet, by rule and facts. Pure: each signal has one function that yields its findings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from milonga_hub.alerts.models import AlertRuleSpec, AlertSignal
from milonga_hub.devices.selectors import parse
from milonga_hub.telemetry.rules import SIGNALS

# What a rule without a threshold takes.
THRESHOLDS: Mapping[AlertSignal, float | None] = {
    # Share of requests that failed: one in twenty.
    AlertSignal.ERROR_RATE: 0.05,
    # Median in the field over the median that was measured on this device type.
    AlertSignal.LATENCY: 2.0,
    # Boards slow themselves down from 80 to 85 degrees on.
    AlertSignal.TEMPERATURE: 80.0,
    # Windows lost on the device in the time that is looked at.
    AlertSignal.TELEMETRY_DROPPED: 0.0,
    # Share of windows in which the machine was held back.
    AlertSignal.THROTTLED: 0.5,
    # Windows a second; agents make one in thirty seconds unless they are told otherwise. The hub takes ten a second, and more
    # only for a while.
    AlertSignal.TELEMETRY_FLOOD: 1.0,
    # Seconds, either way; what telemetry says of times further ahead is set right, too.
    AlertSignal.DEVICE_CLOCK: 300.0,
    # Watts. None: what is too much depends on the board, so a rule names it.
    AlertSignal.POWER: None,
}
# A window also ends early: where the build changes, or the agent stops.
_HONEST_TIMES = 2.0
# Below this many requests a share or a median says nothing.
MIN_REQUESTS = 20


@dataclass(frozen=True)
class DeviceFacts:
    """One device as alerts see it. Figures are of the rule's stretch of telemetry; None where there were none."""

    name: str
    attributes: Mapping[str, str]
    online: bool
    seen_at: datetime | None
    project: str = ""
    request_count: int = 0
    error_count: int = 0
    median_ms: float | None = None
    expected_ms: float | None = None
    temperature_celsius: float | None = None
    dropped_count: int = 0
    window_count: int = 0
    # Since the hub started; 0 where none was within the stretch.
    refused_count: int = 0
    refused_reason: str = ""
    throttled_share: float | None = None
    power_watts: float | None = None
    clock_ahead_seconds: float | None = None


@dataclass(frozen=True)
class DriftFacts:
    """A drift event that no run has answered."""

    device: str
    project: str
    signal: str
    statistic: float
    detected_at: datetime


@dataclass(frozen=True)
class RunFacts:
    """A project's newest run, which failed."""

    name: str
    project: str
    error: str
    ended_at: datetime | None


@dataclass(frozen=True)
class RolloutFacts:
    """A project's newest rollout, or the newest of agents."""

    id: str
    project: str
    # A version, or an agent.
    model_version: str
    paused: bool
    reason: str
    # Devices that went back to what they had, with what they said.
    rolled_back: Mapping[str, str] = field(default_factory=dict)
    awaiting_approval: bool = False
    # By a person, who knows of it: that is nothing wrong.
    paused_by_hand: bool = False
    # Of one that took another back by itself: that one, its version, and why.
    took_back: tuple[str, str, str] | None = None
    # Not once it was aborted: then the next one decides what devices serve.
    may_retry: bool = True


@dataclass(frozen=True)
class Facts:
    devices: Sequence[DeviceFacts] = ()
    drift: Sequence[DriftFacts] = ()
    failed_runs: Sequence[RunFacts] = ()
    rollouts: Sequence[RolloutFacts] = ()
    # Projects whose models come from elsewhere.
    untrained: Collection[str] = ()
    # How long the windows are that agents are told to send.
    window_seconds: float = 30.0


@dataclass(frozen=True)
class Finding:
    """Something that is wrong now."""

    subject: str
    message: str
    next_step: str
    project: str = ""
    # None: not known; it counts from when it was first seen.
    since: datetime | None = None
    value: float | None = None


def threshold_of(spec: AlertRuleSpec) -> float | None:
    return THRESHOLDS.get(spec.watch) if spec.threshold is None else spec.threshold


def findings(spec: AlertRuleSpec, facts: Facts) -> list[Finding]:
    """Return what the rule finds wrong, one finding a subject, in the order of the subjects."""
    if not spec.enabled:
        return []
    wanted = parse(spec.selector)
    devices = {one.name: one for one in facts.devices if wanted.matches(one.attributes)}
    found = _FINDERS[spec.watch](spec, facts, devices)
    return sorted(
        (one for one in found if not spec.project or one.project == spec.project), key=lambda one: one.subject
    )


_Devices = Mapping[str, DeviceFacts]


def _offline(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    for device in devices.values():
        if not device.online:
            seen = f"last seen {device.seen_at:%Y-%m-%d %H:%M} UTC" if device.seen_at else "never seen"
            yield Finding(
                f"devices/{device.name}",
                f"{device.name} is offline, {seen}",
                "see that it has power and network and that its agent runs (on it: systemctl status milonga-agent);"
                f" if it is gone for good: milonga devices delete {device.name}",
                device.project,
                device.seen_at,
            )


def _drift(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    subjects = {(event.device, event.project) for event in facts.drift if event.device in devices}
    for name, project in sorted(subjects):
        events = [event for event in facts.drift if (event.device, event.project) == (name, project)]
        signals = ", ".join(sorted({event.signal for event in events}))
        if any(event.signal in SIGNALS for event in events):
            message = f"what {name} sees for {project} has drifted: {signals}"
            learn = (
                f"train the model again where it comes from, with pictures of now, and send it: milonga models import {project} FILE"
                if project in facts.untrained
                else f"label new pictures, send them (milonga datasets import), and retrain: milonga runs start {project}"
            )
            next_step = f"look at it: milonga telemetry drift --project {project}; {learn}"
        else:
            message = f"{name} no longer serves {project} as it did at first: {signals}"
            next_step = (
                f"see since when: milonga telemetry drift --project {project}; see what keeps the device busy, its temperature"
                f" (milonga telemetry list --device {name}) and its log: milonga devices logs {name}"
            )
        yield Finding(
            f"devices/{name}",
            message,
            next_step,
            project,
            min(event.detected_at for event in events),
            max(event.statistic for event in events),
        )


def _run_failed(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    for run in facts.failed_runs:
        yield Finding(
            run.name,
            f"{run.name} failed: {run.error or 'no reason given'}",
            f"see what happened: milonga runs show {run.name}; then go on from where it stopped: milonga runs resume {run.name}",
            run.project,
            run.ended_at,
        )


def _rollout_paused(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    for rollout in facts.rollouts:
        if rollout.paused and not rollout.paused_by_hand:
            yield Finding(
                f"rollouts/{rollout.id}",
                f"the rollout of {rollout.model_version} is paused: {rollout.reason}",
                f"see which devices failed: milonga rollouts show {rollout.id}; then milonga rollouts resume"
                f" {rollout.id} or milonga rollouts abort {rollout.id}",
                rollout.project,
            )
        elif rollout.awaiting_approval:
            yield Finding(
                f"rollouts/{rollout.id}",
                f"the rollout of {rollout.model_version} waits until a person approves it",
                f"see what it would do: milonga rollouts show {rollout.id}; then milonga rollouts approve {rollout.id} or"
                f" milonga rollouts abort {rollout.id}",
                rollout.project,
            )

        elif rollout.took_back is not None:
            taken, version, why = rollout.took_back
            yield Finding(
                f"rollouts/{taken}",
                f"the rollout of {version} stopped itself, and devices go back to {rollout.model_version}: {why}",
                f"see what failed: milonga rollouts show {taken}; the next rollout of {rollout.project} closes this",
                rollout.project,
            )


def _rolled_back(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    for rollout in facts.rollouts:
        for name, why in rollout.rolled_back.items():
            if name in devices:
                then = (
                    f"to let it try again: milonga rollouts retry {rollout.id}"
                    if rollout.may_retry
                    else f"the next rollout of {rollout.project} closes this"
                )
                yield Finding(
                    f"devices/{name}",
                    f"{name} did not take {rollout.model_version} and serves what it had: {why or 'no reason given'}",
                    f"its steps: milonga devices steps {name}; {then}",
                    rollout.project,
                )


def _error_rate(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    limit = threshold_of(spec) or 0.0
    for device in devices.values():
        if device.request_count < MIN_REQUESTS:
            continue
        share = device.error_count / device.request_count
        if share > limit:
            yield Finding(
                f"devices/{device.name}",
                f"{share:.1%} of {device.request_count} requests on {device.name} failed (allowed {limit:.1%})",
                f"its log says why: milonga devices logs {device.name}; to go back to an earlier version: milonga rollouts create"
                f" {device.project or 'MODEL'}/NUMBER",
                device.project,
                value=share,
            )


def _latency(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    limit = threshold_of(spec) or 0.0
    for device in devices.values():
        if not device.expected_ms or device.median_ms is None or device.request_count < MIN_REQUESTS:
            continue
        ratio = device.median_ms / device.expected_ms
        if ratio > limit:
            anew = (
                f"models import {device.project} FILE"
                if device.project in facts.untrained
                else f"runs start {device.project}"
            )
            yield Finding(
                f"devices/{device.name}",
                f"an answer of {device.name} takes {device.median_ms:.3g} ms, {ratio:.1f} times the"
                f" {device.expected_ms:.3g} ms that were measured (allowed {limit:g} times)",
                "see whether it is hot or does other work: milonga telemetry list --device"
                f" {device.name}; if this is how it is now, measure again with a new run: milonga {anew}",
                device.project,
                value=ratio,
            )


def _above(
    spec: AlertRuleSpec,
    devices: _Devices,
    value_of: Callable[[DeviceFacts], float | None],
    told: Callable[[DeviceFacts, float, float], tuple[str, str]],
    least: float = 0.0,
) -> Iterator[Finding]:
    """Yield a finding for each device whose value is above the threshold, and `least`; `told` says of both what is, and what to do."""
    threshold = threshold_of(spec)
    limit = None if threshold is None else max(threshold, least)
    for device in devices.values():
        value = value_of(device)
        if limit is not None and value is not None and value > limit:
            summary, action = told(device, value, limit)
            yield Finding(f"devices/{device.name}", summary, action, device.project, value=float(value))


def _temperature(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    return _above(
        spec,
        devices,
        lambda device: device.temperature_celsius,
        lambda device, celsius, limit: (
            f"{device.name} is at {celsius:.0f} °C (allowed {limit:.0f} °C)",
            "cool it, or give it less to do: a lower latency_ms in the project's limits makes it compute less",
        ),
    )


def _dropped(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    return _above(
        spec,
        devices,
        lambda device: device.dropped_count,
        lambda device, count, limit: (
            f"{device.name} had to drop {count} telemetry windows",
            f"it could not reach the broker for long, or its disk is full: milonga devices show {device.name}",
        ),
    )


def _refused(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    for device in devices.values():
        if device.refused_count:
            yield Finding(
                f"devices/{device.name}",
                f"telemetry of {device.name} is refused: {device.refused_reason}",
                f"see how much of it: milonga devices show {device.name}; an old agent: milonga devices upgrade {device.name};"
                f" what sends this and is not yours: milonga devices revoke {device.name}",
                device.project,
                value=float(device.refused_count),
            )


def _flood(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    return _above(
        spec,
        devices,
        lambda device: device.window_count / spec.over_seconds,
        lambda device, rate, limit: (
            f"{device.name} sends {rate:.3g} windows of telemetry a second (allowed {limit:g})",
            f"see what it does: milonga devices logs {device.name}; start its agent anew: milonga devices restart"
            f" {device.name}; what sends this and is not yours: milonga devices revoke {device.name}",
        ),
        least=_HONEST_TIMES / facts.window_seconds,
    )


def _clock(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    limit = threshold_of(spec) or 0.0
    for device in devices.values():
        ahead = device.clock_ahead_seconds
        if ahead is not None and abs(ahead) > limit:
            way = "ahead of" if ahead > 0 else "behind"
            yield Finding(
                f"devices/{device.name}",
                f"the clock of {device.name} is {_span(abs(ahead))} {way} the hub's (allowed {_span(limit)})",
                f"set it (on it: timedatectl set-ntp true) and see that it reaches a time server: milonga devices diagnose {device.name};"
                " a day ahead it installs nothing new. If many devices are off alike, it is the hub's clock",
                device.project,
                value=ahead,
            )


def _span(seconds: float) -> str:
    """Return how long that is, in the largest unit of which it is two: "90 s", "3 h"."""
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _throttled(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    return _above(
        spec,
        devices,
        lambda device: device.throttled_share,
        lambda device, share, limit: (
            f"{device.name} was throttled in {share:.0%} of the time (allowed {limit:.0%})",
            "cool it, or give it a supply that is strong enough: until then it is slower than it was measured",
        ),
    )


def _power(spec: AlertRuleSpec, facts: Facts, devices: _Devices) -> Iterator[Finding]:
    return _above(
        spec,
        devices,
        lambda device: device.power_watts,
        lambda device, watts, limit: (
            f"{device.name} draws {watts:.3g} W (allowed {limit:.3g} W)",
            "see what else it does; a lower latency_ms in the project's limits makes it compute less",
        ),
    )


_FINDERS: Mapping[AlertSignal, Callable[[AlertRuleSpec, Facts, _Devices], Iterator[Finding]]] = {
    AlertSignal.DEVICE_OFFLINE: _offline,
    AlertSignal.DRIFT: _drift,
    AlertSignal.RUN_FAILED: _run_failed,
    AlertSignal.ROLLOUT_PAUSED: _rollout_paused,
    AlertSignal.ROLLED_BACK: _rolled_back,
    AlertSignal.ERROR_RATE: _error_rate,
    AlertSignal.LATENCY: _latency,
    AlertSignal.TEMPERATURE: _temperature,
    AlertSignal.TELEMETRY_DROPPED: _dropped,
    AlertSignal.THROTTLED: _throttled,
    AlertSignal.POWER: _power,
    AlertSignal.TELEMETRY_REFUSED: _refused,
    AlertSignal.TELEMETRY_FLOOD: _flood,
    AlertSignal.DEVICE_CLOCK: _clock,
}
