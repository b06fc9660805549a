"""Upgrade agents some at a time, and go no further where one of them does not come back well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from milonga.v1 import devices_pb2 as pb

# How long an agent must run before its start counts as good is a minute (milonga_agent/upkeep.py).
SETTLE_SECONDS = 60.0
# It says what went wrong before it starts anew, and again after: what it said of the time before is gone by then.
_TROUBLE_SECONDS = 15.0
# Three starts that hang take a watchdog's minute each, and then the agent before it runs again.
_LONGEST_SECONDS = 600.0
_LOOK_SECONDS = 2.0
# What agents say of an upgrade that they did not make, or that did not start (milonga_agent/care.py, supervision.py).
_TROUBLE = ("the agent was not upgraded", "did not start, so the one before it runs")


class Condition(StrEnum):
    GONE = auto()
    BUSY = auto()
    TROUBLED = auto()
    WELL = auto()


def condition(device: pb.Device) -> Condition:
    """Return how a device that was asked to upgrade its agent is."""
    if device.state != pb.DEVICE_STATE_ONLINE:
        return Condition.GONE
    if device.upgrades < device.wanted_upgrades:
        return Condition.BUSY
    return Condition.TROUBLED if any(words in device.status_message for words in _TROUBLE) else Condition.WELL


@dataclass
class Watched:
    """One device of the batch, and since when it is as it is."""

    condition: Condition
    since: float

    def look(self, device: pb.Device, now: float, settle_seconds: float) -> bool:
        """Return whether the device has upgraded for good. Raises Stopped where it has not."""
        found = condition(device)
        if found is not self.condition:
            self.condition, self.since = found, now
        lasted = now - self.since
        if found is Condition.TROUBLED and lasted >= _TROUBLE_SECONDS:
            raise Stopped(f"{device.name}: {device.status_message}")
        if found is Condition.GONE and lasted >= _LONGEST_SECONDS:
            raise Stopped(f"{device.name} is off line since {lasted / 60:.0f} min")
        if found is Condition.BUSY and lasted >= _LONGEST_SECONDS:
            raise Stopped(f"{device.name} has not upgraded within {lasted / 60:.0f} min")
        return found is Condition.WELL and lasted >= settle_seconds


class Stopped(Exception):
    """A device did not upgrade well; the message says which and why."""


def upgrade_in_batches(
    batches: Iterable[Sequence[str]],
    ask: Callable[[str], pb.Device],
    look: Callable[[str], pb.Device],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    tell: Callable[[str], None],
    settle_seconds: float = SETTLE_SECONDS,
) -> None:
    """Ask the devices of a batch to upgrade and wait until each has run the new agent for long enough; then the next.

    Those that are off line upgrade when they connect, and are not waited for. Raises Stopped.
    """
    for batch in batches:
        asked = [ask(name) for name in batch]
        absent = [each.name for each in asked if each.state != pb.DEVICE_STATE_ONLINE]
        waiting = {each.name: Watched(Condition.BUSY, clock()) for each in asked if each.name not in absent}
        tell(f"asked {_names(batch)}" + (f"; {_names(absent)} off line, upgrades when it connects" if absent else ""))
        while waiting:
            sleep(_LOOK_SECONDS)
            now = clock()
            done = [name for name, watched in waiting.items() if watched.look(look(name), now, settle_seconds)]
            for name in done:
                del waiting[name]
            if done:
                tell(f"{_names(done)} upgraded" + (f"; waiting for {_names([*waiting])}" if waiting else ""))


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
