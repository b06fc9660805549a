"""What the tables keep of connected devices: each change in the session that it is given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select, update

from milonga_hub.devices import rules, rules_upgrades, transferred
from milonga_hub.devices.known import shipped
from milonga_hub.devices.models import (
    AgentUpgrade,
    Assignment,
    Device,
    DeviceBuild,
    DeviceState,
    DeviceType,
    Inventory,
    KnownBundle,
    StepLog,
)
from milonga_hub.devices.values import AgentStatus, Download, Hello
from milonga_hub.errors import Unauthenticated

_log = logging.getLogger(__name__)
_SAID_AGAIN = timedelta(minutes=10)

# SQLite takes 32,766 in one statement.
_NAMES_PER_STATEMENT = 1000
# What makes two reports of a step the same.
_ONE_STEP = ("device", "generation", "step", "state", "attempt")
# Made once; so is what the database makes of them.
_NAMED = sa.select(col(Device.name)).where(col(Device.name) == sa.bindparam("device"))
_SAY = sa.insert(StepLog)
_SAY_AGAIN = (
    sa.update(StepLog)
    .where(*(getattr(StepLog, name) == sa.bindparam(f"same_{name}") for name in _ONE_STEP))
    .values(message=sa.bindparam("said"))
)


@dataclass(frozen=True)
class Presence:
    """Which hub this is, and which are there: "" where there can be no other."""

    hub: str = ""
    alive: Callable[[], Collection[str]] = lambda: {""}


class Records:
    """Devices as they connect, report and go. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], datetime], presence: Presence = Presence()) -> None:
        self._clock = clock
        self._presence = presence
        # By fingerprint, as far as they are on disk. Types are never forgotten.
        self._types: dict[str, str] = {}

    def opened(self, session: Session, device: str, hello: Hello) -> tuple[Device, Assignment | None]:
        """Take the device online; return it, and what it is assigned. Raises Unauthenticated where it was deleted."""
        found = session.get(Device, device)
        if found is None:
            raise Unauthenticated(f"device {device} was deleted; enrol it again")
        if rules.is_clone(found.boot_ids, hello.boot_id):
            before, found.cloned_at = found.cloned_at, self._clock()
            # They take the device's place in turns.
            if before is None or found.cloned_at - before > _SAID_AGAIN:
                _log.warning(
                    "two machines have the identity of %s; if it was copied: milonga devices revoke %s", device, device
                )
        started_anew = found.boot_ids[-1:] != [hello.boot_id]
        boots = rules.with_boot(found.boot_ids, hello.boot_id)
        if boots != found.boot_ids:
            found.boot_ids = boots
        if hello.inventory != found.inventory:
            found.inventory = hello.inventory
            found.device_type = self.type_of(session, hello.inventory, found.simulated)
        found.agent_version = hello.agent_version
        found.knows_shadows, found.knows_tuning = hello.knows_shadows, hello.knows_tuning
        found.hub = self._presence.hub
        found.state = DeviceState.ONLINE
        found.seen_at = self._clock()
        self._apply_status(session, found, hello.status, started_anew)
        return found, self._assignment_above(session, found)

    def closed(self, session: Session, device: str, seen_at: datetime | None) -> Device | None:
        """Take the device offline; return it, None where it was deleted, or is at another hub by now."""
        found = session.get(Device, device)
        if found is None or found.hub != self._presence.hub:
            return None
        if found.revoked_at is None:
            found.state = DeviceState.OFFLINE
        found.seen_at = seen_at or found.seen_at
        return found

    def told(
        self, session: Session, device: str, status: AgentStatus, ahead_seconds: float | None = None
    ) -> tuple[Device | None, bool]:
        """Keep what the device says of itself, and how far its clock is ahead; return it, None where it is shut out, and whether anything
        is new."""
        found = session.get(Device, device)
        if found is None or found.revoked_at is not None:
            return None, False
        changed = self._apply_status(session, found, status) or found.state is not DeviceState.ONLINE
        clock = rules.noted_clock(found.clock_ahead_seconds, ahead_seconds)
        if clock != found.clock_ahead_seconds:
            found.clock_ahead_seconds, changed = clock, True
        if changed:
            found.state = DeviceState.ONLINE
            found.seen_at = self._clock()
        return found, changed

    def stepped(self, session: Session, report: StepLog, download: Download | None = None) -> StepLog | None:
        """Keep a step report; one that is sent again, or only tells more progress, updates the one that is there.

        `download` is what a download moved that the report says has succeeded.
        """
        connection, told = session.connection(), report.model_dump(exclude={"id"})
        if connection.execute(_NAMED, {"device": report.device}).first() is None:
            return None
        same = {f"same_{name}": told[name] for name in _ONE_STEP}
        if not connection.execute(_SAY_AGAIN, {**same, "said": report.message}).rowcount:
            connection.execute(_SAY, told)
            if download is not None:
                transferred.add(session, report.device, download)
        return report

    def wishes(self, session: Session, devices: Collection[str]) -> list[tuple[Device, Assignment | None]]:
        """Return these devices, and what each is assigned."""
        names, found = sorted(devices), []
        for start in range(0, len(names), _NAMES_PER_STATEMENT):
            part = names[start : start + _NAMES_PER_STATEMENT]
            wishes = session.exec(select(Assignment).where(col(Assignment.device).in_(part)))
            by_device = {wish.device: wish for wish in wishes}
            known = session.exec(select(Device).where(col(Device.name).in_(part)))
            found += [(device, by_device.get(device.name)) for device in known]
        return found

    def built(self, session: Session, told: DeviceBuild) -> DeviceBuild | None:
        """Keep what came of a build on a device, in place of what it told of the same build before."""
        if session.get(Device, told.device) is None:
            return None
        return session.merge(told)

    def silent(
        self, session: Session, seen: Mapping[str, datetime], connected: set[str], now: datetime, longest_seconds: float
    ) -> tuple[list[Device], list[str]]:
        """Write the heartbeats down; return who is offline now, for silence or without a stream, and whose certificate ended.

        Of devices at other hubs, only those whose hub is not there any more. Only what changes is read and written: a fleet
        of 10,000 is looked at every few seconds.
        """
        if seen:
            # Matched by name in one statement that is prepared once.
            statement = sa.update(Device).where(col(Device.name) == sa.bindparam("device"))
            session.connection().execute(
                statement.values(seen_at=sa.bindparam("at")),
                [{"device": device, "at": at} for device, at in seen.items()],
            )
        online = select(Device.name, Device.seen_at, Device.certificate_expires_at, Device.hub).where(
            Device.state == DeviceState.ONLINE
        )
        others = {*self._presence.alive()} - {self._presence.hub}
        lost, expired = [], []
        for name, seen_at, expires_at, hub in session.exec(online):
            if hub in others:
                continue
            if expires_at is not None and expires_at <= now:
                expired.append(name)
            if name not in connected or not rules.is_online(seen_at, now, longest_seconds, 1):
                lost.append(name)
        gone: list[Device] = self._found_again(session, connected)
        for start in range(0, len(lost), _NAMES_PER_STATEMENT):
            named = col(Device.name).in_(lost[start : start + _NAMES_PER_STATEMENT])
            session.exec(update(Device).where(named).values(state=DeviceState.OFFLINE))
            gone += session.exec(select(Device).where(named))
        return gone, expired

    def _found_again(self, session: Session, connected: set[str]) -> list[Device]:
        """Take those online that another hub took offline, while this one could not tell that it is there."""
        mine = select(Device).where(Device.state == DeviceState.OFFLINE, Device.hub == self._presence.hub)
        found = [device for device in session.exec(mine) if device.name in connected] if self._presence.hub else []
        for device in found:
            device.state = DeviceState.ONLINE
        return found

    def type_of(self, session: Session, inventory: Inventory, simulated: bool) -> str:
        """Return the name of the type that the inventory falls into; the first device of a type makes it."""
        fingerprint = rules.fingerprint(inventory, simulated)
        if fingerprint in self._types:
            return self._types[fingerprint]
        made: set[str] = session.info.setdefault("types made", set())
        known = session.exec(select(DeviceType.name).where(DeviceType.fingerprint == fingerprint)).first()
        if known is not None:
            if known not in made:
                self._types[fingerprint] = known
            return known
        taken = set(session.exec(select(DeviceType.name)).all())
        name = rules.type_name(inventory, taken, rules.known_type(inventory, shipped()))
        session.add(
            DeviceType(
                name=name, fingerprint=fingerprint, simulated=simulated, inventory=inventory, created_at=self._clock()
            )
        )
        made.add(name)
        return name

    def _apply_status(self, session: Session, device: Device, status: AgentStatus, started_anew: bool = False) -> bool:
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
            "restarts": status.restarts,
            "profiles": status.profiles,
            "upgrades": status.upgrades,
            "agent_upgrade": self._upgrade(device, status, started_anew),
        }
        changed = any(getattr(device, field) != value for field, value in new.items())
        if changed:
            for field, value in new.items():
                setattr(device, field, value)
        return changed

    def _upgrade(self, device: Device, status: AgentStatus, started_anew: bool) -> AgentUpgrade | None:
        """Return how the device's upgrade stands, now that it has said this on an open stream."""
        if device.agent_upgrade is None:
            return None
        said = rules_upgrades.Said(
            counted=status.upgrades >= device.wanted_upgrades,
            agent_version=device.agent_version,
            problem=status.upgrade_problem,
            started_anew=started_anew,
        )
        return rules_upgrades.after(device.agent_upgrade, said, self._clock())

    def _assignment_above(self, session: Session, device: Device) -> Assignment | None:
        """Return the device's assignment, lifted above what the device has seen (from this hub's lost database)."""
        assignment = session.get(Assignment, device.name)
        if assignment is not None and assignment.generation < device.reported_generation:
            assignment.generation = rules.next_generation(assignment, device.reported_generation)
            device.assigned_generation = assignment.generation
        return assignment
