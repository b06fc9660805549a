"""What connected agents tell the hub: that they are there, what they serve, how far an assignment is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlmodel import Session

from milonga_hub.commits import Change, Commits
from milonga_hub.devices import rules
from milonga_hub.devices.helping import Helping
from milonga_hub.devices.measuring import Measuring
from milonga_hub.devices.models import (
    Assignment,
    Device,
    DeviceBuild,
    DeviceState,
    StepLog,
)
from milonga_hub.devices.records import Presence, Records
from milonga_hub.devices.streams import ONE_IDENTITY, DeviceStream, Streams
from milonga_hub.devices.timing import Timing
from milonga_hub.devices.values import (
    AgentSettings,
    AgentStatus,
    Download,
    Hello,
    HelpAnswer,
    MeasurementResult,
    Profile,
    TimingResult,
)
from milonga_hub.errors import FailedPrecondition, MilongaError, Unauthenticated
from milonga_hub.events import EventBus
from milonga_hub.settings import Settings

_log = logging.getLogger(__name__)


class Connections:
    """The hub's end of the agents' streams; rpc.py carries the messages."""

    def __init__(
        self,
        commits: Commits,
        events: EventBus,
        settings: Settings,
        clock: Callable[[], datetime],
        streams: Streams,
        measuring: Measuring,
        timing: Timing,
        helping: Helping,
        presence: Presence = Presence(),
    ) -> None:
        self._events = events
        self._settings = settings
        self._clock = clock
        self._streams = streams
        self._measuring = measuring
        self._timing = timing
        self._helping = helping
        self._records = Records(clock, presence)
        self._presence = presence
        self._commits = commits
        self.type_of = self._records.type_of
        # Heartbeats that changed nothing else wait here and are written together: one commit for the whole fleet.
        self._seen_at: dict[str, datetime] = {}
        # For the broker, whose connections end with the streams.
        self.shut_out_listeners: list[Callable[[str], None]] = []
        self.renew_after_seconds: Callable[[Device], float] = lambda device: 0.0

    def open(self, device: str, hello: Hello) -> DeviceStream:
        """Take a device online and leave it what it lacks: settings, and its assignment if it is behind."""
        stream = self._begin(device)
        try:
            opened = self._commits.now(lambda session: self._records.opened(session, device, hello))
        except BaseException:
            self._end(stream)
            raise
        return self._welcome(stream, hello, *opened)

    async def connect(self, device: str, hello: Hello) -> DeviceStream:
        """As `open`, in one commit with others that connect at the same time."""
        stream = self._begin(device)
        try:
            opened = await self._commits.soon(lambda session: self._records.opened(session, device, hello))
        except BaseException:
            self._end(stream)
            raise
        return self._welcome(stream, hello, *opened)

    def _begin(self, device: str) -> DeviceStream:
        stream = self._streams.open(device)
        # Of an older stream, if there was one.
        self._lost(device)
        return stream

    def _welcome(
        self, stream: DeviceStream, hello: Hello, found: Device, assignment: Assignment | None
    ) -> DeviceStream:
        wanted, renew_after = self._settings, self.renew_after_seconds(found)
        stream.status, stream.knows_tuning = hello.status, hello.knows_tuning
        stream.clock_ahead_seconds = found.clock_ahead_seconds
        stream.begin("settings", AgentSettings(wanted.heartbeat_seconds, wanted.telemetry_seconds, renew_after))
        if assignment is not None and rules.is_behind(assignment, hello.status.generation, hello.status.active_bundle):
            # A newer one may have been left while this one was read.
            stream.offer("assignment", assignment)
        self._helping.send(found)
        self._events.publish(f"devices/{stream.device}", found)
        return stream

    def shut_out(self, device: str, reason: MilongaError) -> None:
        """End all connections of the device at once; it is told the reason."""
        self._streams.close(device, reason)
        for listener in self.shut_out_listeners:
            listener(device)

    def close(self, stream: DeviceStream) -> None:
        """Take the device offline, unless a newer stream of it is open."""
        if self._end(stream):
            seen_at = self._seen_at.pop(stream.device, None)
            self._tell(self._commits.now(lambda session: self._records.closed(session, stream.device, seen_at)))

    async def disconnect(self, stream: DeviceStream) -> None:
        """As `close`, in one commit with others that go at the same time. What it measured goes to others at once."""
        if self._end(stream):
            seen_at = self._seen_at.pop(stream.device, None)
            await self._commits.soon(
                lambda session: self._records.closed(session, stream.device, seen_at), then=self._tell
            )

    def _end(self, stream: DeviceStream) -> bool:
        if not self._streams.forget(stream):
            return False
        self._lost(stream.device)
        return True

    def _lost(self, device: str) -> None:
        self.lost_elsewhere(device)
        self._streams.elsewhere.lost(device)

    def lost_elsewhere(self, device: str) -> None:
        """Give back what the device was asked: its stream has ended, wherever it was. On the event loop."""
        self._measuring.lost(device)
        self._timing.lost(device)
        self._helping.lost(device)

    def changed_elsewhere(self, devices: Sequence[Device]) -> None:
        """Take note of what other hubs made of devices: where they are connected now, and what they shall do."""
        for device in devices:
            stream = self._streams.get(device.name)
            if stream is not None and device.hub != self._presence.hub and device.state is DeviceState.ONLINE:
                reason = f"{device.name} connected to another hub, so this older stream ends; {ONE_IDENTITY}"
                stream.close(FailedPrecondition(reason))
            if stream is not None and device.revoked_at is not None:
                stream.close(Unauthenticated(f"device {device.name} was revoked by an operator"))
        self.catch_up([device.name for device in devices])

    def catch_up(self, devices: Collection[str] | None = None) -> None:
        """Leave the devices that are connected here, or these of them, what they lack: another hub may have wished it."""
        names = self._streams.names() if devices is None else self._streams.names() & {*devices}
        for device, assignment in self._commits.now(lambda session: self._records.wishes(session, names)):
            stream = self._streams.get(device.name)
            if stream is None:
                continue
            if assignment is not None and rules.is_behind(assignment, device.reported_generation, device.active_bundle):
                stream.send("assignment", assignment)
            self._helping.send(device)

    def heartbeat(self, device: str, status: AgentStatus, sent_at: float | None = None) -> None:
        """Note a sign of life, and what changed since the last one; `sent_at` is Unix time by the device's clock, None from those that
        do not tell."""
        ahead = self._ahead(sent_at)
        if not self._is_known(device, status, ahead):
            told = self._commits.now(lambda session: self._records.told(session, device, status, ahead))
            self._told(device, status, *told)

    async def beat(self, device: str, status: AgentStatus, sent_at: float | None = None) -> None:
        """As `heartbeat`, in one commit with others that have news at the same time."""
        ahead = self._ahead(sent_at)
        if not self._is_known(device, status, ahead):
            await self._commits.soon(
                lambda session: self._records.told(session, device, status, ahead),
                then=lambda told: self._told(device, status, *told),
            )

    def _ahead(self, sent_at: float | None) -> float | None:
        return None if sent_at is None else sent_at - self._clock().timestamp()

    def _is_known(self, device: str, status: AgentStatus, ahead_seconds: float | None) -> bool:
        """Say whether this is but a sign of life: the database says the same of the device already."""
        stream = self._streams.get(device)
        if stream is None or stream.closed is not None or stream.status != status:
            return False
        if rules.noted_clock(stream.clock_ahead_seconds, ahead_seconds) != stream.clock_ahead_seconds:
            return False
        self._seen_at[device] = self._clock()
        return True

    def _told(self, device: str, status: AgentStatus, found: Device | None, changed: bool) -> None:
        if found is None:
            return
        stream = self._streams.get(device)
        if stream is not None:
            stream.status, stream.clock_ahead_seconds = status, found.clock_ahead_seconds
        if changed:
            self._seen_at.pop(device, None)
            self._tell(found)
        else:
            self._seen_at[device] = self._clock()

    def step(self, report: StepLog, download: Download | None = None) -> None:
        """Keep a step report; one that is sent again, or only tells more progress, updates the one that is there."""
        self._tell_step(self._commits.now(lambda session: self._records.stepped(session, report, download)))

    async def report(self, report: StepLog, download: Download | None = None) -> None:
        """As `step`, in one commit with others that report at the same time."""
        await self._commits.soon(lambda session: self._records.stepped(session, report, download), then=self._tell_step)

    def _tell_step(self, kept: StepLog | None) -> None:
        if kept is not None:
            self._events.publish(f"steps/{kept.device}", kept)

    def built(self, told: DeviceBuild) -> None:
        """Keep what came of a build on a device, in place of what it told of the same build before."""
        told.id = f"{told.device}:{told.bundle}:{told.engine}/{told.precision}"
        # By the hub's clock: a device's may be wrong at boot.
        told.reported_at = self._clock()
        kept = self._commits.now(lambda session: self._records.built(session, told))
        if kept is not None:
            self._events.publish(f"device_builds/{told.device}", kept)

    def helped(self, device: str, answer: HelpAnswer) -> None:
        self._helping.answered(device, answer)

    def profiled(self, device: str, profile: Profile) -> None:
        """Keep what a device found when it profiled itself again."""

        def change(session: Session) -> Device | None:
            found = session.get(Device, device)
            if found is not None:
                found.device_type = self.type_of(session, profile.inventory, found.simulated)
                self._helping.profiled(session, found, profile)
            return found

        self._tell(self._commits.now(change))

    def measured(self, device: str, result: MeasurementResult) -> None:
        self._measuring.answered(device, result)

    def timed(self, device: str, result: TimingResult) -> None:
        self._timing.answered(device, result)

    async def watch_heartbeats(self) -> None:
        """Check again and again, as often as agents report."""
        while True:
            await self._commits.soon(self._silent(), then=lambda found: self._dismiss(*found))
            await asyncio.sleep(self._settings.heartbeat_seconds)

    def check_heartbeats(self) -> None:
        """Write the heartbeats down, and take offline who is silent or was left online by a hub that died."""
        self._dismiss(*self._commits.now(self._silent()))

    def _silent(self) -> Change[tuple[list[Device], list[str]]]:
        seen, self._seen_at = self._seen_at, {}
        connected, now = self._streams.names(), self._clock()
        seconds = self._settings.heartbeat_seconds * self._settings.missed_heartbeats
        return lambda session: self._records.silent(session, seen, connected, now, seconds)

    def _dismiss(self, silent: list[Device], expired: list[str]) -> None:
        # First: who is silent as well is told what it can do about it.
        for name in expired:
            self.shut_out(name, Unauthenticated(f"the certificate of {name} ended and was not renewed; enrol it again"))
        for device in silent:
            if device.state is DeviceState.OFFLINE:
                self._streams.close(device.name, FailedPrecondition("no heartbeat came for too long; connect again"))
                self.lost_elsewhere(device.name)
            self._tell(device)

    def _tell(self, device: Device | None) -> None:
        if device is not None:
            self._events.publish(f"devices/{device.name}", device)
