"""The open streams to devices: what the hub has to say waits here until the device takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
)


class DeviceLost(MilongaError):
    """The device's stream ended before it answered."""

    reason = "DEVICE_LOST"


class DeviceStream:
    """One connected device. A newer message of the same slot replaces one that was not sent yet."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, Outgoing] = {}
        self._wake = asyncio.Event()
        self._closed: MilongaError | None = None
        # What the database has of the device, once it has: most heartbeats say the same again.
        self.status: AgentStatus | None = None
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
        self._wake.set()

    def offer(self, slot: str, message: Outgoing) -> None:
        """Leave a message unless a newer one of its slot waits already."""
        if slot not in self._waiting:
            self._put(slot, message)

    def close(self, reason: MilongaError) -> None:
        """End the stream: the device is told the reason. May be called from any thread."""
        self._on_loop(lambda: self._end(reason))

    async def next(self) -> Outgoing:
        """Return the next message for the device. Raises the reason once the hub has closed the stream."""
        while self._closed is None and not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        if self._closed is not None:
            raise self._closed
        return self._waiting.pop(next(iter(self._waiting)))

    def _put(self, slot: str, message: Outgoing) -> None:
        self._waiting.pop(slot, None)
        self._waiting[slot] = message
        self._wake.set()

    def _end(self, reason: MilongaError) -> None:
        if self._closed is None:
            self._closed = reason
            self._wake.set()

    def _on_loop(self, action: Callable[[], None]) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            action()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)


class Streams:
    """The newest stream of every connected device."""

    def __init__(self) -> None:
        self._by_device: dict[str, DeviceStream] = {}

    def open(self, device: str) -> DeviceStream:
        """Return a new stream; an older one of the same device is closed."""
        older = self._by_device.get(device)
        stream = DeviceStream(device)
        self._by_device[device] = stream
        if older is not None:
            older.close(FailedPrecondition(f"{device} connected again; this older stream ends"))
        return stream

    def forget(self, stream: DeviceStream) -> bool:
        """Return True if this was the device's newest stream, so that the device is gone now."""
        if self._by_device.get(stream.device) is not stream:
            return False
        del self._by_device[stream.device]
        return True

    def get(self, device: str) -> DeviceStream | None:
        return self._by_device.get(device)

    def names(self) -> set[str]:
        return set(self._by_device)

    def send(self, device: str, slot: str, message: Outgoing) -> None:
        """Leave a message for the device if it is connected; others get theirs when they connect."""
        stream = self.get(device)
        if stream is not None:
            stream.send(slot, message)

    def close(self, device: str, reason: MilongaError) -> None:
        stream = self.get(device)
        if stream is not None:
            stream.close(reason)
