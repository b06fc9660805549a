"""Remembers what speaks for a drift of every device, so that each window is looked at once."""

from __future__ import annotations

import logging
import math
import zlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.memory import Memory, Remembered
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import Signal
from milonga_hub.telemetry.rules_remembered import opened_watch, packed_watch
from milonga_hub.telemetry.rules_sequential import MONTH_SECONDS, Evidence, drifted, least_won
from milonga_hub.telemetry.rules_watching import Watched, after, evidence_of, said, signal_of, watched

_log = logging.getLogger(__name__)

_MONTH = timedelta(seconds=MONTH_SECONDS)
# How often what was seen of a device is kept: what came since is read again where the hub starts again.
_KEEP = timedelta(minutes=15)
# Windows that are looked at together; after one at which a drift is said, the next ones are looked at anew.
_STEPS = 60
_MOST_FRESH = 200
# Project, device and signal.
_Name = tuple[str, str, str]


@dataclass(frozen=True)
class Subject:
    """New windows of one device with one bundle, in the order of their ids, and what they are judged by."""

    policy: DriftPolicy
    reference: Mapping[str, Any]
    windows: Sequence[TelemetryWindow]

    @property
    def project(self) -> str:
        return self.windows[0].project

    @property
    def device(self) -> str:
        return self.windows[0].device

    @property
    def bundle(self) -> str:
        return self.windows[0].bundle


class _Last(NamedTuple):
    """The newest window of a device that was looked at."""

    id: int
    boot_id: str
    sequence: int
    received_at: datetime

    @classmethod
    def of(cls, window: TelemetryWindow) -> _Last:
        return cls(window.id or 0, window.boot_id, window.sequence, window.received_at)


@dataclass
class _Device:
    bundle: str
    policy: DriftPolicy
    fresh: Watched
    watched: Watched
    last: _Last
    # When what was seen is to be kept.
    keep_at: datetime
    won: Mapping[str, float] = field(default_factory=dict)


class Detectors:
    """Judges by the sequential method. A hub that starts again reads what is remembered of a device when its next window comes.

    Windows of a device come in the order in which it made them. Used by one thread at a time.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        # By project and device, those heard of last at the end.
        self._devices: dict[str, OrderedDict[str, _Device]] = {}
        # What devices with a bundle begin with, by bundle and policy: shared, so that it is looked at once for all of them.
        self._fresh: dict[tuple[str, str], Watched] = {}

    def observe(self, subjects: Sequence[Subject]) -> list[Sequence[Signal]]:
        """Return which signals of each have drifted, the least likely without a drift first; a device may be there once.

        What is worked out of one takes hardly less time than of hundreds. A device that cannot be judged is said in the log.
        """
        seen = {place: device for place, one in enumerate(subjects) if (device := self._seen(one)) is not None}
        evidence = dict(zip(seen, evidence_of([one.watched for one in seen.values()]), strict=True))
        for place, device in seen.items():
            device.won = _won(device.watched, evidence[place])
        named = self._named(subjects, evidence)
        told: list[Sequence[Signal]] = [
            self._told(subject, evidence[place], named) if place in seen else ()
            for place, subject in enumerate(subjects)
        ]
        self._keep(subjects, seen)
        return told

    def calm(self, subject: Subject, signals: Collection[str]) -> set[str]:
        """Return which of these signals of the device are as they should be, as far as it was observed."""
        known, answers = self._devices[subject.project].get(subject.device), subject.policy.min_samples
        return set() if known is None else {name for name in signals if known.watched.is_calm(name, answers)}

    def forget(self, project: str, device: str) -> None:
        """Drop what is remembered of a device that is no longer judged."""
        self._devices.get(project, OrderedDict()).pop(device, None)

    def _seen(self, subject: Subject) -> _Device | None:
        """Return the device after its new windows; None where they cannot be looked at."""
        fleet = self._devices.setdefault(subject.project, OrderedDict())
        known = fleet.pop(subject.device, None)
        try:
            if known is None or (known.bundle, known.policy) != (subject.bundle, subject.policy):
                known = self._recalled(subject)
            for window in subject.windows:
                if not _is_late(window, known.last):
                    known.watched = after(known.watched, subject.policy, window)
                    known.last = _Last.of(window)
        except Exception:
            # The windows are stored all the same, and what came before the next one is recalled.
            _log.exception("could not judge whether %s has drifted", subject.device)
            return None
        fleet[subject.device] = known
        _forget(fleet, known.last)
        return known

    def _recalled(self, subject: Subject) -> _Device:
        """Return the device as it was before its new windows."""
        fresh, first = self._begun(subject), subject.windows[0]
        seen, last, windows = fresh, _Last.of(first), None
        if (kept := self._memory.of(subject.project, subject.device)) is not None and (
            (kept.bundle, kept.policy) == (subject.bundle, _text(subject.policy))
        ):
            state = opened_watch(kept.state, fresh)
            if state is not None:
                seen, last = state, _Last(kept.window_id, kept.boot_id, kept.sequence, kept.received_at)
                windows = self._memory.between(subject.device, subject.bundle, kept.window_id, first.id or 0)
        if windows is None:
            windows = self._memory.before(subject.device, subject.bundle, first.id or 0)
        if windows:
            last = _Last.of(windows[-1])
        # Not all devices at once.
        early = timedelta(seconds=zlib.crc32(subject.device.encode()) % _KEEP.seconds)
        keep_at = first.received_at + _KEEP - early
        return _Device(subject.bundle, subject.policy, fresh, _again(seen, subject.policy, windows), last, keep_at)

    def _begun(self, subject: Subject) -> Watched:
        key = (subject.bundle, _text(subject.policy))
        if key not in self._fresh:
            if len(self._fresh) >= _MOST_FRESH:
                self._fresh.clear()
            self._fresh[key] = watched(subject.policy, subject.reference)
        return self._fresh[key]

    def _keep(self, subjects: Sequence[Subject], seen: Mapping[int, _Device]) -> None:
        """Keep what was seen of those of which it has not been kept for some time."""
        found = []
        for place, device in seen.items():
            subject = subjects[place]
            if device.last.received_at < device.keep_at:
                continue
            device.keep_at = device.last.received_at + _KEEP
            if (state := packed_watch(device.watched, device.fresh)) is not None:
                names = (subject.project, subject.device, subject.bundle, _text(subject.policy))
                found.append(Remembered(*names, *device.last, state))
        if not found:
            return
        try:
            self._memory.keep(found)
        except Exception as error:
            # Who starts again then reads more windows.
            _log.warning("could not keep what was seen of %d devices (%s); trying again later", len(found), error)

    def _named(self, subjects: Sequence[Subject], evidence: Mapping[int, Mapping[str, Evidence]]) -> set[_Name]:
        """Return those of the subjects' signals that have drifted, judged beside all signals of all devices of their projects."""
        policies: dict[str, DriftPolicy] = {}
        asked: set[_Name] = set()
        for place, found in evidence.items():
            one = subjects[place]
            least = least_won(one.policy.false_alarms_per_month)
            if names := [name for name, each in found.items() if each.log_won >= least]:
                policies[one.project] = one.policy
                asked |= {(one.project, one.device, name) for name in names}
        named: set[_Name] = set()
        for project, policy in policies.items():
            least, fleet = least_won(policy.false_alarms_per_month), self._devices[project]
            won = {
                (project, name, signal): one
                for name, each in fleet.items()
                for signal, one in each.won.items()
                if one >= least
            }
            named |= drifted(won, policy.false_alarms_per_month, _watched_count(fleet))
        return named & asked

    def _told(self, subject: Subject, found: Mapping[str, Evidence], named: Collection[_Name]) -> list[Signal]:
        """Return the subject's signals among those that are named, which are not told again until they drift anew."""
        its = {name: found[name] for name in found if (subject.project, subject.device, name) in named}
        if not its:
            return []
        fleet = self._devices[subject.project]
        device, count = fleet[subject.device], _watched_count(fleet)
        signals = [signal_of(name, one, device.watched, subject.policy, count) for name, one in its.items()]
        device.watched = said(device.watched, its)
        return sorted(signals, key=lambda one: one.p_value)


def _again(seen: Watched, policy: DriftPolicy, windows: Sequence[TelemetryWindow]) -> Watched:
    """Return what is watched after windows that were judged before, as far as can be told without the devices beside it."""
    least, rate = least_won(policy.false_alarms_per_month), policy.false_alarms_per_month
    waiting, count = [*windows], _STEPS
    while waiting:
        steps = [*accumulate(waiting[:count], lambda so_far, one: after(so_far, policy, one), initial=seen)][1:]
        seen, waiting_on, count_on = steps[-1], waiting[count:], min(2 * count, _STEPS)
        for place, found in enumerate(evidence_of(steps)):
            names = drifted(_won(steps[place], found), rate, len(found))
            if its := {name: found[name] for name in names if found[name].log_won >= least}:
                # Where much has drifted it is said again within a few windows: more would be looked at in vain, again and again.
                seen, waiting_on, count_on = said(steps[place], its), waiting[place + 1 :], place + 1
                break
        waiting, count = waiting_on, count_on
    return seen


def _watched_count(fleet: Mapping[str, _Device]) -> int:
    return sum(len(one.won) for one in fleet.values())


def _text(policy: DriftPolicy) -> str:
    return policy.model_dump_json()


def _is_late(window: TelemetryWindow, last: _Last) -> bool:
    """A window that comes after newer ones of the same boot says nothing of the present; clocks are not asked."""
    return window.boot_id == last.boot_id and window.sequence < last.sequence


def _won(seen: Watched, found: Mapping[str, Evidence]) -> dict[str, float]:
    """What has been said to have drifted keeps what it had won then."""
    return {name: max(one.log_won, seen.said.get(name, -math.inf)) for name, one in found.items()}


def _forget(fleet: OrderedDict[str, _Device], newest: _Last) -> None:
    """Devices that were not heard of for a month raise no false alarms in it."""
    while len(fleet) > 1:
        name, oldest = next(iter(fleet.items()))
        if newest.received_at - oldest.last.received_at <= _MONTH:
            return
        del fleet[name]
