"""What connected agents tell the hub: that they are there, what they serve, how far an assignment is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session, select

from milonga_hub.db import Database
from milonga_hub.devices import rules
from milonga_hub.devices.known import shipped
from milonga_hub.devices.measuring import Measuring
from milonga_hub.devices.models import (
    Assignment,
    Device,
    DeviceBuild,
    DeviceState,
    DeviceType,
    Inventory,
    KnownBundle,
    StepLog,
)
from milonga_hub.devices.streams import DeviceStream, Streams
from milonga_hub.devices.values import AgentSettings, AgentStatus, Hello, MeasurementResult
from milonga_hub.errors import FailedPrecondition, MilongaError, Unauthenticated
from milonga_hub.events import EventBus
from milonga_hub.settings import Settings

_log = logging.getLogger(__name__)


class Connections:
    """The hub's end of the agents' streams; rpc.py carries the messages."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        settings: Settings,
        clock: Callable[[], datetime],
        streams: Streams,
        measuring: Measuring,
    ) -> None:
        self._database = database
        self._events = events
        self._settings = settings
        self._clock = clock
        self._streams = streams
        self._measuring = measuring
        # Heartbeats that changed nothing else wait here and are written together: one commit for the whole fleet.
        self._seen_at: dict[str, datetime] = {}
        # For the broker, whose connections end with the streams.
        self.shut_out_listeners: list[Callable[[str], None]] = []
        self.renew_after_seconds: Callable[[Device], float] = lambda device: 0.0

    def open(self, device: str, hello: Hello) -> DeviceStream:
        """Take a device online and leave it what it lacks: settings, and its assignment if it is behind."""
        stream = self._streams.open(device)
        self._measuring.lost(device)  # Of an older stream, if there was one.
        with self._database.session() as session:
            found = session.get(Device, device)
            if found is None:
                self._streams.forget(stream)
                raise Unauthenticated(f"device {device} was deleted; enrol it again")
            if rules.is_clone(found.boot_ids, hello.boot_id):
                found.cloned_at = self._clock()
                _log.warning(
                    "two machines have the identity of %s; if it was copied: milonga devices revoke %s", device, device
                )
            found.boot_ids = rules.with_boot(found.boot_ids, hello.boot_id)
            found.inventory = hello.inventory
            found.agent_version = hello.agent_version
            found.device_type = self.type_of(session, hello.inventory, found.simulated)
            found.state = DeviceState.ONLINE
            found.seen_at = self._clock()
            self._apply_status(session, found, hello.status)
            assignment = self._assignment_above(session, found)
            session.add(found)
        wanted, renew_after = self._settings, self.renew_after_seconds(found)
        stream.send("settings", AgentSettings(wanted.heartbeat_seconds, wanted.telemetry_seconds, renew_after))
        if assignment is not None and rules.is_behind(assignment, hello.status.generation, hello.status.active_bundle):
            stream.send("assignment", assignment)
        self._events.publish(f"devices/{device}", found)
        return stream

    def shut_out(self, device: str, reason: MilongaError) -> None:
        """End all connections of the device at once; it is told the reason."""
        self._streams.close(device, reason)
        for listener in self.shut_out_listeners:
            listener(device)

    def close(self, stream: DeviceStream) -> None:
        """Take the device offline, unless a newer stream of it is open."""
        if not self._streams.forget(stream):
            return
        self._measuring.lost(stream.device)
        with self._database.session() as session:
            found = session.get(Device, stream.device)
            if found is None:
                return
            if found.revoked_at is None:
                found.state = DeviceState.OFFLINE
            found.seen_at = self._seen_at.pop(stream.device, found.seen_at)
            session.add(found)
        self._events.publish(f"devices/{stream.device}", found)

    def heartbeat(self, device: str, status: AgentStatus) -> None:
        """Note a sign of life, and what changed since the last one."""
        now = self._clock()
        with self._database.session() as session:
            found = session.get(Device, device)
            if found is None or found.revoked_at is not None:
                return
            changed = self._apply_status(session, found, status)
            if found.state is DeviceState.ONLINE and not changed:
                self._seen_at[device] = now
                return
            self._seen_at.pop(device, None)
            found.state = DeviceState.ONLINE
            found.seen_at = now
            session.add(found)
        self._events.publish(f"devices/{device}", found)

    def step(self, report: StepLog) -> None:
        """Keep a step report; one that is sent again, or only tells more progress, updates the one that is there."""
        with self._database.session() as session:
            if session.get(Device, report.device) is None:
                return
            known = session.exec(
                select(StepLog).where(
                    StepLog.device == report.device,
                    StepLog.generation == report.generation,
                    StepLog.step == report.step,
                    StepLog.state == report.state,
                    StepLog.attempt == report.attempt,
                )
            ).first()
            if known is not None:
                known.message = report.message
                report = known
            session.add(report)
        self._events.publish(f"steps/{report.device}", report)

    def built(self, told: DeviceBuild) -> None:
        """Keep what came of a build on a device, in place of what it told of the same build before."""
        told.id = f"{told.device}:{told.bundle}:{told.engine}/{told.precision}"
        # By the hub's clock: a device's may be wrong at boot.
        told.reported_at = self._clock()
        with self._database.session() as session:
            if session.get(Device, told.device) is None:
                return
            kept = session.merge(told)
        self._events.publish(f"device_builds/{told.device}", kept)

    def measured(self, device: str, result: MeasurementResult) -> None:
        self._measuring.answered(device, result)

    async def watch_heartbeats(self) -> None:
        """Check again and again, as often as agents report."""
        while True:
            self.check_heartbeats()
            await asyncio.sleep(self._settings.heartbeat_seconds)

    def check_heartbeats(self) -> None:
        """Write the heartbeats down, and take offline who is silent or was left online by a hub that died."""
        now, seen, self._seen_at = self._clock(), self._seen_at, {}
        silent: list[Device] = []
        expired: list[str] = []
        with self._database.session() as session:
            for device in session.exec(select(Device).where(Device.state == DeviceState.ONLINE)):
                device.seen_at = seen.get(device.name, device.seen_at)
                if device.certificate_expires_at is not None and device.certificate_expires_at <= now:
                    expired.append(device.name)
                alive = rules.is_online(
                    device.seen_at, now, self._settings.heartbeat_seconds, self._settings.missed_heartbeats
                )
                if not alive or self._streams.get(device.name) is None:
                    device.state = DeviceState.OFFLINE
                    silent.append(device)
                session.add(device)
        # First: who is silent as well is told what it can do about it.
        for name in expired:
            self.shut_out(name, Unauthenticated(f"the certificate of {name} ended and was not renewed; enrol it again"))
        for device in silent:
            self._streams.close(device.name, FailedPrecondition("no heartbeat came for too long; connect again"))
            self._events.publish(f"devices/{device.name}", device)

    def type_of(self, session: Session, inventory: Inventory, simulated: bool) -> str:
        """Return the name of the type that the inventory falls into; the first device of a type makes it."""
        fingerprint = rules.fingerprint(inventory, simulated)
        known = session.exec(select(DeviceType).where(DeviceType.fingerprint == fingerprint)).first()
        if known is not None:
            return known.name
        taken = set(session.exec(select(DeviceType.name)).all())
        name = rules.type_name(inventory, taken, rules.known_type(inventory, shipped()))
        session.add(
            DeviceType(
                name=name, fingerprint=fingerprint, simulated=simulated, inventory=inventory, created_at=self._clock()
            )
        )
        return name

    def _apply_status(self, session: Session, device: Device, status: AgentStatus) -> bool:
        """Copy what the agent says of itself to its device; return whether anything is new."""
        version, engine = device.active_version, device.active_engine
        if status.active_bundle != device.active_bundle:
            known = session.get(KnownBundle, status.active_bundle) if status.active_bundle else None
            version, engine = (known.model_version, known.engine) if known else ("", "")
        # A bundle may have fallen back to another engine than it was built for.
        engine = status.active_engine or engine
        new = {
            "reported_generation": status.generation,
            "active_bundle": status.active_bundle,
            "active_version": version,
            "active_engine": engine,
            "serving_url": status.serving_url,
            "status_message": status.message,
        }
        changed = any(getattr(device, field) != value for field, value in new.items())
        for field, value in new.items():
            setattr(device, field, value)
        return changed

    def _assignment_above(self, session: Session, device: Device) -> Assignment | None:
        """Return the device's assignment, lifted above what the device has seen (from this hub's lost database)."""
        assignment = session.get(Assignment, device.name)
        if assignment is not None and assignment.generation < device.reported_generation:
            assignment.generation = rules.next_generation(assignment, device.reported_generation)
            session.add(assignment)
            device.assigned_generation = assignment.generation
        return assignment
