"""The open streams to devices: what the hub has to say waits here until the device takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from milonga_hub.devices.models import Assignment
from milonga_hub.devices.values import (
    AgentSettings,
    AgentStatus,
    CacheKey,
    Care,
    HelpTask,
    MeasurementTask,
    NewAssignment,
    NewCertificate,
    Passed,
    SamplingPolicy,
    TimingTask,
)
from milonga_hub.errors import FailedPrecondition, MilongaError

Outgoing = (
    Assignment
    | NewAssignment
    | MeasurementTask
    | TimingTask
    | AgentSettings
    | NewCertificate
    | SamplingPolicy
    | HelpTask
    | Care
    | CacheKey
    | Passed
)


# For whoever was pushed out, and for people who read its log.
ONE_IDENTITY = "where a copy of this device runs, stop one of the two, or let it join as a device of its own"


class DeviceLost(MilongaError):
    """The device's stream ended before it answered."""

    reason = "DEVICE_LOST"


class DeviceStream:
    """One connected device. A newer message of the same slot replaces one that was not sent yet."""

    __slots__ = ("_closed", "_heard", "_loop", "_waiting", "clock_ahead_seconds", "device", "knows_tuning", "status")

    def __init__(self, device: str) -> None:
        self.device = device
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, Outgoing] = {}
        self._heard: Callable[[], None] | None = None
        self._closed: MilongaError | None = None
        # What the database has of the device, once it has: most heartbeats say the same again.
        self.status: AgentStatus | None = None
        self.clock_ahead_seconds: float | None = None
        # Whether its agent times kernels.
        self.knows_tuning = False

    @property
    def closed(self) -> MilongaError | None:
        """Why the hub ended this stream, None while it is open."""
        return self._closed

    def send(self, slot: str, message: Outgoing) -> None:
        """Leave a message for the device. May be called from any thread."""
        self._on_loop(lambda: self._put(slot, message))

    def begin(self, slot: str, message: Outgoing) -> None:
        """Leave a message before all that wait already."""
        waiting, self._waiting = self._waiting, {slot: message}
        self._waiting.update(waiting)
        self._hear()

    def offer(self, slot: str, message: Outgoing) -> None:
        """Leave a message unless a newer one of its slot waits already."""
        if slot not in self._waiting:
            self._put(slot, message)

    def close(self, reason: MilongaError) -> None:
        """End the stream: the device is told the reason. May be called from any thread."""
        self._on_loop(lambda: self._end(reason))

    def listen(self, heard: Callable[[], None] | None) -> None:
        """Call this, on the event loop, when a message waits or the stream has ended; now, where that is so already."""
        self._heard = heard
        if self._waiting or self._closed is not None:
            self._hear()

    def take(self) -> Outgoing | None:
        """Return the next message for the device, None for none. Raises the reason once the hub has closed the stream."""
        if self._closed is not None:
            raise self._closed
        return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None

    async def next(self) -> Outgoing:
        """Return the next message for the device, when there is one. Raises the reason once the hub has closed the stream."""
        while (message := self.take()) is None:
            woken = asyncio.Event()
            self.listen(woken.set)
            await woken.wait()
        return message

    def _put(self, slot: str, message: Outgoing) -> None:
        self._waiting.pop(slot, None)
        self._waiting[slot] = message
        self._hear()

    def _end(self, reason: MilongaError) -> None:
        if self._closed is None:
            self._closed = reason
            self._hear()

    def _hear(self) -> None:
        if self._heard is not None:
            self._heard()

    def _on_loop(self, action: Callable[[], None]) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            action()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)


class Elsewhere(Protocol):
    """The streams that other hubs have."""

    def connected(self) -> dict[str, tuple[str, bool]]:
        """Return by device the hub that has its stream, and whether its agent times kernels."""

    def find(self, device: str) -> tuple[str, bool] | None:
        """As `connected`, of one device."""

    def ask(self, hub: str, device: str, slot: str, message: Outgoing) -> None: ...

    def digests_for(self, device: str) -> set[str]:
        """Return what a device here may fetch for what other hubs ask of it."""

    def answered(self, device: str, slot: str, body: bytes) -> bool:
        """Carry an answer to the hub that asked; return whether another did."""

    def lost(self, device: str) -> None:
        """Tell the hubs that asked a device here that its stream has ended."""


class Nowhere:
    """There are no other hubs."""

    def connected(self) -> dict[str, tuple[str, bool]]:
        return {}

    def find(self, device: str) -> tuple[str, bool] | None:
        return None

    def ask(self, hub: str, device: str, slot: str, message: Outgoing) -> None:
        raise DeviceLost(f"{device} disconnected")

    def digests_for(self, device: str) -> set[str]:
        return set()

    def answered(self, device: str, slot: str, body: bytes) -> bool:
        return False

    def lost(self, device: str) -> None:
        pass


@dataclass(frozen=True)
class StreamElsewhere:
    """One device that is connected to another hub."""

    device: str
    hub: str
    knows_tuning: bool
    elsewhere: Elsewhere

    def send(self, slot: str, message: Outgoing) -> None:
        """Leave a question for the device. May be called from any thread."""
        self.elsewhere.ask(self.hub, self.device, slot, message)


class Streams:
    """The newest stream of every connected device."""

    def __init__(self) -> None:
        self._by_device: dict[str, DeviceStream] = {}
        self.elsewhere: Elsewhere = Nowhere()

    def open(self, device: str) -> DeviceStream:
        """Return a new stream; an older one of the same device is closed."""
        older = self._by_device.get(device)
        stream = DeviceStream(device)
        self._by_device[device] = stream
        if older is not None:
            older.close(FailedPrecondition(f"{device} connected once more, so this older stream ends; {ONE_IDENTITY}"))
        return stream

    def forget(self, stream: DeviceStream) -> bool:
        """Return True if this was the device's newest stream, so that the device is gone now."""
        if self._by_device.get(stream.device) is not stream:
            return False
        del self._by_device[stream.device]
        return True

    def get(self, device: str) -> DeviceStream | None:
        """Return the device's stream to this hub."""
        return self._by_device.get(device)

    def anywhere(self, device: str) -> DeviceStream | StreamElsewhere | None:
        """Return the device's stream to this hub, or else how its stream to another is reached."""
        here = self.get(device)
        if here is not None:
            return here
        found = self.elsewhere.find(device)
        return None if found is None else StreamElsewhere(device, *found, self.elsewhere)

    def names(self) -> set[str]:
        """Return the devices that are connected to this hub."""
        return set(self._by_device)

    def names_anywhere(self) -> set[str]:
        return self.names() | self.elsewhere.connected().keys()

    def send(self, device: str, slot: str, message: Outgoing) -> None:
        """Leave a message for the device if it is connected to this hub; others get theirs when they connect, or of theirs."""
        stream = self.get(device)
        if stream is not None:
            stream.send(slot, message)

    def close(self, device: str, reason: MilongaError) -> None:
        stream = self.get(device)
        if stream is not None:
            stream.close(reason)
