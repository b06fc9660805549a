"""Upgrade agents some at a time, and go no further where one of them does not come back well."""

from __future__ import annotations

from collections import deque
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


class Upgrade:
    """Asks devices to upgrade, `size` at a time, and knows at any moment who has, who is on the way and who was not asked."""

    def __init__(
        self,
        names: Iterable[str],
        size: int,
        ask: Callable[[str], pb.Device],
        look: Callable[[str], pb.Device],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        tell: Callable[[str], None],
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._size = size
        self._ask = ask
        self._look = look
        self._clock = clock
        self._sleep = sleep
        self._tell = tell
        self._settle_seconds = settle_seconds
        self.not_asked = deque(names)
        self.absent: list[str] = []
        self.done: list[str] = []
        self._waiting: dict[str, Watched] = {}

    def run(self) -> None:
        """Ask some devices and wait until each has run the new agent for long enough; then the next.

        Those that are off line upgrade when they connect, and are not waited for. Those that run the new agent already, as of an
        upgrade that was cut off, take no place of others, and are watched for as long as these. Raises Stopped.
        """
        while self.not_asked:
            self._ask_some()
            while self._waiting:
                self._sleep(_LOOK_SECONDS)
                self._look_at_all()

    def standing(self) -> str:
        """Return who has upgraded, who is on the way and who was not asked."""
        parts = [
            ("upgraded", self.done),
            ("on their way", [*self._waiting]),
            ("off line, upgrade when they connect", self.absent),
            ("not asked", self.not_asked),
        ]
        return "; ".join(f"{words}: {_names([*names])}" for words, names in parts if names)

    def _ask_some(self) -> None:
        asked, absent, had = list[str](), list[str](), list[str]()
        while self.not_asked and len(asked) + len(absent) < self._size:
            device = self._ask(self.not_asked[0])
            name = self.not_asked.popleft()
            if device.upgrades >= device.wanted_upgrades:
                had.append(name)
                self._waiting[name] = Watched(condition(device), self._clock())
            elif device.state == pb.DEVICE_STATE_ONLINE:
                asked.append(name)
                self._waiting[name] = Watched(Condition.BUSY, self._clock())
            else:
                absent.append(name)
        self.absent += absent
        if had:
            self._tell(f"{_names(had)} {_has(had)} this agent already")
        if asked:
            self._tell(f"asked {_names(asked)}")
        if absent:
            self._tell(
                f"{_names(absent)} off line, {'upgrades when it connects' if len(absent) == 1 else 'upgrade when they connect'}"
            )

    def _look_at_all(self) -> None:
        now = self._clock()
        well = list[str]()
        for name, watched in [*self._waiting.items()]:
            try:
                if not watched.look(self._look(name), now, self._settle_seconds):
                    continue
            except Stopped:
                # It is not on its way any more.
                del self._waiting[name]
                raise
            del self._waiting[name]
            well.append(name)
        self.done += well
        if well:
            waiting = [*self._waiting]
            self._tell(f"{_names(well)} upgraded" + (f"; waiting for {_names(waiting)}" if waiting else ""))


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
