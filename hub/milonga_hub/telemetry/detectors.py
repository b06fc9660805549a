"""Remembers what speaks for a drift of every device, so that each window is looked at once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import Signal
from milonga_hub.telemetry.rules_sequential import MONTH_SECONDS, Evidence, drifted
from milonga_hub.telemetry.rules_watching import Watched, after, said, signal_of, watched

_MONTH = timedelta(seconds=MONTH_SECONDS)


@dataclass(frozen=True)
class Seen:
    """What a device's new windows show: what has drifted, and what is as it should be."""

    drifted: Sequence[Signal] = ()
    calm: frozenset[str] = frozenset()


@dataclass
class _Device:
    bundle: str
    policy: DriftPolicy
    watched: Watched
    last: TelemetryWindow
    won: Mapping[str, float]


class Detectors:
    """Judges by the sequential method. A hub that starts again reads the newest windows of a device when its next one comes.

    Windows of a device come in the order in which it made them. Used by one thread at a time.
    """

    def __init__(self, history: Callable[[str, str, int], Sequence[TelemetryWindow]]) -> None:
        """`history(device, bundle, id)` returns what is kept of earlier windows, oldest first."""
        self._history = history
        # By project and device, those heard of last at the end.
        self._devices: dict[str, OrderedDict[str, _Device]] = {}

    def observe(self, policy: DriftPolicy, reference: Mapping[str, Any], windows: Sequence[TelemetryWindow]) -> Seen:
        """Return what new windows of one device with one bundle show."""
        first = windows[0]
        fleet = self._devices.setdefault(first.project, OrderedDict())
        known = fleet.pop(first.device, None)
        if known is None or (known.bundle, known.policy) != (first.bundle, policy):
            known = self._recalled(policy, reference, first)
        fleet[first.device] = known
        for window in windows:
            if not _is_late(window, known.last):
                known.watched, known.last = after(known.watched, policy, window), window
        found = known.watched.evidence()
        known.won = _won(known.watched, found)
        _forget(fleet, known.last)
        named = self._named(fleet, known.last.device, found, policy)
        count = sum(len(one.won) for one in fleet.values())
        signals = [signal_of(name, one, known.watched, policy, count) for name, one in named.items()]
        calm = known.watched.calm(policy.min_samples) - set(named)
        known.watched = said(known.watched, named)
        return Seen(sorted(signals, key=lambda one: one.p_value), frozenset(calm))

    def forget(self, project: str, device: str) -> None:
        """Drop what is remembered of a device that is no longer judged."""
        self._devices.get(project, OrderedDict()).pop(device, None)

    def _recalled(self, policy: DriftPolicy, reference: Mapping[str, Any], first: TelemetryWindow) -> _Device:
        seen, last = watched(policy, reference), first
        for last in self._history(first.device, first.bundle, first.id or 0):
            seen = after(seen, policy, last)
            found = seen.evidence()
            seen = said(seen, {name: found[name] for name in drifted(_won(seen, found), policy.false_alarms_per_month)})
        return _Device(first.bundle, policy, seen, last, {})

    def _named(
        self, fleet: Mapping[str, _Device], device: str, found: Mapping[str, Evidence], policy: DriftPolicy
    ) -> dict[str, Evidence]:
        """Return those of the device's signals that have drifted, judged beside all signals of all devices of the project."""
        least = math.log(1 / policy.false_alarms_per_month)
        if all(one.log_won < least for one in found.values()):
            return {}
        won = {(name, signal): one for name, each in fleet.items() for signal, one in each.won.items()}
        named = drifted(won, policy.false_alarms_per_month)
        return {name: one for name, one in found.items() if (device, name) in named and one.log_won >= least}


def _is_late(window: TelemetryWindow, last: TelemetryWindow) -> bool:
    """A window that comes after newer ones of the same boot says nothing of the present; clocks are not asked."""
    return window.boot_id == last.boot_id and window.sequence < last.sequence


def _won(seen: Watched, found: Mapping[str, Evidence]) -> dict[str, float]:
    """What has been said to have drifted keeps what it had won then."""
    return {name: max(one.log_won, seen.said.get(name, -math.inf)) for name, one in found.items()}


def _forget(fleet: OrderedDict[str, _Device], newest: TelemetryWindow) -> None:
    """Devices that were not heard of for a month raise no false alarms in it."""
    while len(fleet) > 1:
        name, oldest = next(iter(fleet.items()))
        if newest.received_at - oldest.last.received_at <= _MONTH:
            return
        del fleet[name]
