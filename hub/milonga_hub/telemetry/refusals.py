"""What was not taken from devices since the hub started: counted, and shown where people look at the device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from milonga_hub import counts
from milonga_hub.db import utc_now

# The log hears of one device at most so often, whatever is wrong with its messages.
_QUIET = timedelta(minutes=1)


@dataclass(frozen=True)
class Refused:
    """How many messages of one device, the last of them, and when the log heard of one."""

    count: int = 0
    reason: str = ""
    refused_at: datetime | None = None
    told_at: datetime | None = None


class Refusals:
    """Safe to use from several threads. Only devices that a broker let in are in it, so that it stays small."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_device: dict[str, Refused] = {}

    def note(self, device: str, kind: str, reason: str) -> bool:
        """Count one message; return whether it is to be told, so that a flood does not fill the log as well."""
        counts.refused_messages[kind] += 1
        now = self._clock()
        with self._lock:
            before = self._by_device.get(device, Refused())
            is_told = before.told_at is None or (before.reason != reason and now - before.told_at >= _QUIET)
            told_at = now if is_told else before.told_at
            self._by_device[device] = Refused(before.count + 1, reason, now, told_at)
        return is_told

    def of(self, device: str) -> Refused:
        """Return what was refused of a device: a count of 0 where nothing was."""
        with self._lock:
            return self._by_device.get(device, Refused())
