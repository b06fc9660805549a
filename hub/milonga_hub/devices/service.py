"""Devices: how they join, what they are, what they should run, and what they measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from milonga_compiler.environments import buildable_engines
from sqlmodel import col, delete, func, select

from milonga_hub.authority import Authority, Presented
from milonga_hub.commits import Commits
from milonga_hub.db import Database, utc_now
from milonga_hub.devices import rules, rules_upgrades, transferred
from milonga_hub.devices.admission import Admission
from milonga_hub.devices.assigning import Announce, Assigning, Wanted, nobody_else
from milonga_hub.devices.caches import Caches
from milonga_hub.devices.certificates import Certificates
from milonga_hub.devices.comparing import Comparing, OnRound
from milonga_hub.devices.connections import Connections
from milonga_hub.devices.helping import LOG_SECONDS, Helping
from milonga_hub.devices.known import shipped
from milonga_hub.devices.measuring import Measuring, OnProgress
from milonga_hub.devices.models import (
    Assignment,
    Device,
    DeviceBuild,
    DeviceState,
    DeviceType,
    DeviceView,
    File,
    Inventory,
    JoinRequest,
    JoinRequestState,
    JoinToken,
    KnownBundle,
    Measurement,
    ShadowSpec,
    StepLog,
    Transferred,
)
from milonga_hub.devices.records import Presence
from milonga_hub.devices.rules_upgrades import NOTHING_HEARD, is_silent, runs_release
from milonga_hub.devices.selectors import parse
from milonga_hub.devices.steps import last_steps
from milonga_hub.devices.streams import Elsewhere, Streams
from milonga_hub.devices.timing import Timed, Timing
from milonga_hub.devices.tokens import HubKey, JoinTokens
from milonga_hub.devices.values import (
    AgentRelease,
    DeviceTransfers,
    Enrolment,
    HelpAnswer,
    HelpKind,
    Identity,
    LastStep,
    MeasurementItem,
    MeasuringPolicy,
    Outline,
    Passed,
    SamplingPolicy,
    Standing,
    TimingItem,
)
from milonga_hub.errors import FailedPrecondition, NotFound, Unauthenticated
from milonga_hub.events import EventBus
from milonga_hub.paging import page
from milonga_hub.settings import Settings

__all__ = [
    "LOG_SECONDS",
    "NOTHING_HEARD",
    "AgentRelease",
    "DeviceService",
    "Enrolment",
    "Identity",
    "LastStep",
    "MeasurementItem",
    "MeasuringPolicy",
    "OnProgress",
    "OnRound",
    "Presence",
    "SamplingPolicy",
    "Standing",
    "Timed",
    "TimingItem",
    "Wanted",
    "is_silent",
    "nobody_else",
    "runs_release",
]

# What serves and what served before; a device that names more is not believed.
_MOST_HELD = 4
# DeviceService.list hides the builtin inside the class.
_Devices = list[Device]
_Outlines = list[Outline]
_Standings = list[Standing]
_Types = list[DeviceType]
_Names = list[str]
_Tokens = list[JoinToken]
_Requests = list[JoinRequest]
_Steps = list[StepLog]
_Measurements = list[Measurement]
_DeviceBuilds = list[DeviceBuild]


class DeviceService:
    """All that the hub knows of devices and wants of them.

    `connections` is for agents' streams, `certificates` for brokers, `caches` for devices that serve their neighbours.
    """

    def __init__(
        self,
        database: Database,
        events: EventBus,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        measuring_policy: MeasuringPolicy | None = None,
        authority: Authority | None = None,
        presence: Presence = Presence(),
        announce: Announce = nobody_else,
    ) -> None:
        """`presence` and `announce` are about other hubs on the database: see hubs/."""
        self._database = database
        self._events = events
        self._clock = clock
        self._key = HubKey(settings.data_dir / "hub.key")
        self.authority = authority or Authority(settings.data_dir / "authority")
        self._tokens = JoinTokens(database, self._key, clock, self.authority.fingerprint)
        self._streams = Streams()
        policy = measuring_policy or MeasuringPolicy(budget_seconds=settings.measuring_seconds)
        self._measuring = Measuring(database, events, self._streams, clock, policy)
        self._comparing = Comparing(self._measuring, policy.comparing_seconds)
        self._timing = Timing(database, events, self._streams, self._measuring)
        self._helping = Helping(database, self._streams, clock)
        self._assigning = Assigning(database, events, self._streams, clock, announce)
        commits = Commits(database)
        self.connections = Connections(
            commits, events, settings, clock, self._streams, self._measuring, self._timing, self._helping, presence
        )
        self._admission = Admission(
            database, commits, events, settings, clock, self.authority, self._tokens, self.connections.type_of
        )
        self.connections.renew_after_seconds = self._admission.renew_after_seconds
        self.certificates = Certificates(database, clock)
        self.caches = Caches(database, self._streams, clock)
        self.on_shut_out(self.caches.shut_out)
        self._check_pin: Callable[[str], object] = lambda version: None

    # Joining

    def create_join_token(
        self, labels: Mapping[str, str], uses: int = 0, lifetime_seconds: int = 0, request_id: str = ""
    ) -> tuple[JoinToken, str]:
        """Return a token (0 uses: one; 0 seconds: a day) and its secret, which is shown only now."""
        return self._tokens.create(labels, uses, lifetime_seconds, request_id)

    def list_join_tokens(self, page_size: int = 0, page_token: str = "") -> tuple[_Tokens, str]:
        return self._tokens.page(page_size, page_token)

    def enrol(self, enrolment: Enrolment) -> Identity:
        """Return a certificate for the device, or none while an operator has not decided; see admission.py."""
        return self._admission.enrol(enrolment)

    async def join(self, enrolment: Enrolment) -> Identity:
        """As `enrol`, in one commit with others that join at the same time."""
        return await self._admission.join(enrolment)

    def may_join(self, check: Callable[[Device], None]) -> None:
        """Let `check` raise QuotaExceeded for a new device that would be too many."""
        self._admission.may_join = check

    def renew(self, device: str, request: bytes) -> None:
        """Send the connected device a new certificate for its key."""
        self._streams.send(device, "certificate", self._admission.renew(device, request))

    def authenticate(self, shown: Presented) -> Device:
        """Return the device whose certificate it is. Raises Unauthenticated for all others."""
        return self._admission.authenticate(shown)

    def is_shut_out(self, device: str) -> bool:
        """Say whether the device was revoked or deleted meanwhile; cheap enough to ask for every chunk."""
        return self._admission.is_shut_out(device)

    def on_shut_out(self, listener: Callable[[str], None]) -> None:
        """Call the listener with the name of every device whose other connections must end."""
        self.connections.shut_out_listeners.append(listener)

    def revoke(self, name: str) -> Device:
        """Refuse the device's key from now on, and end its connections at once. It stays in the list."""
        device = self._admission.revoke(self.get(name).name)
        self.connections.shut_out(device.name, Unauthenticated(f"device {device.name} was revoked by an operator"))
        return device

    def join_requests(self, page_size: int = 0, page_token: str = "") -> tuple[_Requests, str]:
        """Return a page of the machines that asked to join without a token."""
        return self._admission.requests(page_size, page_token)

    def approve(self, request: str) -> JoinRequest:
        """Let the machine in that asked; it gets its certificate the next time that it asks."""
        return self._admission.decide(request, JoinRequestState.APPROVED)

    def refuse(self, request: str) -> JoinRequest:
        """Turn the machine away that asked."""
        return self._admission.decide(request, JoinRequestState.REFUSED)

    # Devices

    def get(self, name: str) -> Device:
        with self._database.session() as session:
            device = session.get(Device, name.removeprefix("devices/"))
        if device is None:
            raise NotFound(f"no device {name!r}; see: milonga devices list")
        return device

    def seen(self, device: Device) -> DeviceView:
        """Return the device as people and programs may see it now."""
        return rules_upgrades.seen(device, self._clock())

    def list(self, selector: str = "", page_size: int = 0, page_token: str = "") -> tuple[_Devices, str]:
        """Return a page of the devices that the selector matches, by name."""
        return self._page(self._named(selector), page_size, page_token)

    def counted(self, selector: str = "", page_size: int = 0, page_token: str = "") -> tuple[_Devices, str, int]:
        """Return a page as `list` does, and how many devices match in all."""
        names = self._named(selector)
        devices, following = self._page(names, page_size, page_token)
        if names is not None:
            return devices, following, len(names)
        with self._database.session() as session:
            return devices, following, session.exec(select(func.count()).select_from(Device)).one()

    def _named(self, selector: str) -> _Names | None:
        """Return the names of the devices that match, None for all: few columns of all devices, but all columns of a page alone."""
        return [each.name for each in self.outlines(selector)] if selector.strip() else None

    def _page(self, names: _Names | None, page_size: int, page_token: str) -> tuple[_Devices, str]:
        statement = select(Device) if names is None else select(Device).where(col(Device.name).in_(names))
        with self._database.session() as session:
            return page(session, statement, col(Device.name), page_size, page_token)

    def outlines(
        self, selector: str = "", *, device_type: str = "", active_version: str = "", with_revoked: bool = True
    ) -> _Outlines:
        """Return as much of the devices that the selector matches as counts and pictures of a fleet take, by name.

        Where they are given, of this type, and of those that serve this version.
        """
        wanted = parse(selector)
        columns = [col(getattr(Device, name)) for name in Outline._fields]
        with self._database.session() as session:
            statement = sa.select(*columns).order_by(col(Device.name))
            for column, value in ((Device.device_type, device_type), (Device.active_version, active_version)):
                if value:
                    statement = statement.where(col(column) == value)
            if not with_revoked:
                statement = statement.where(col(Device.revoked_at).is_(None))
            found = session.connection().execute(statement)
            outlines = [Outline(*row) for row in found]
        return [each for each in outlines if wanted.matches(rules.attributes(each))] if selector.strip() else outlines

    def simulated_names(self) -> set[str]:
        """Return the names of all devices that are simulated."""
        with self._database.session() as session:
            return set(session.exec(select(Device.name).where(col(Device.simulated))))

    def matching(self, selector: str) -> _Devices:
        """Return all devices that the selector matches, by name, without those that were revoked."""
        wanted = parse(selector)
        with self._database.session() as session:
            devices = session.exec(select(Device).where(col(Device.revoked_at).is_(None)).order_by(col(Device.name)))
            return [device for device in devices if wanted.matches(self.attributes(device))]

    def enrolled_since(self, moment: datetime) -> _Devices:
        """Return the devices that have joined since then."""
        with self._database.session() as session:
            return [*session.exec(select(Device).where(col(Device.enrolled_at) >= moment))]

    def standings(self) -> _Standings:
        """Return as much of all devices as rollouts look at, by name, without those that were revoked."""
        names = [name for name in Standing._fields if name != "time_zone"]
        columns = [col(getattr(Device, name)) for name in (*names, "inventory")]
        statement = sa.select(*columns).where(col(Device.revoked_at).is_(None)).order_by(col(Device.name))
        with self._database.session() as session:
            return [
                Standing(
                    **dict(zip(names, row[:-1], strict=True)), time_zone=rules.time_zone(row.labels, row.inventory)
                )
                for row in session.connection().execute(statement)
            ]

    def attributes(self, device: Device) -> dict[str, str]:
        """Return what selectors see of the device."""
        return rules.attributes(device)

    def update_labels(self, name: str, labels: Mapping[str, str], request_id: str = "") -> Device:
        """Set these labels and keep the others; an empty value removes its label. Safe to repeat."""
        rules.check_labels(labels)
        device = self._change(name, labels=rules.merged(self.get(name).labels, labels))
        self.caches.relabelled(device.name, device.labels)
        return device

    def pin(self, name: str, model_version: str = "") -> Device:
        """Keep the device on a version, that it serves where none is named: rollouts of others leave it out."""
        if model_version:
            rules.check_version(model_version)
            self._check_pin(model_version)
        model_version = model_version or self.get(name).active_version
        if not model_version:
            raise FailedPrecondition(
                f"{name} serves nothing; name the version: milonga devices pin {name} MODEL/NUMBER"
            )
        return self._change(name, pinned_version=model_version)

    def may_pin(self, check: Callable[[str], object]) -> None:
        """Let `check` raise NotFound for a version that there is not: a device that waits for it would get no other."""
        self._check_pin = check

    def unpin(self, name: str) -> Device:
        """Let rollouts reach the device again."""
        return self._change(name, pinned_version="")

    def _change(self, name: str, **values: object) -> Device:
        with self._database.session() as session:
            device = session.get(Device, self.get(name).name)
            assert device is not None
            for field, value in values.items():
                setattr(device, field, value)
            session.add(device)
        self._events.publish(f"devices/{device.name}", device)
        return device

    # Other hubs

    def reach(self, elsewhere: Elsewhere) -> None:
        """Reach devices by the streams of other hubs too."""
        self._streams.elsewhere = elsewhere

    def ask(self, device: str, slot: str, body: bytes) -> bool:
        """Leave another hub's question for a device; return whether it is connected here. May be called from any thread."""
        stream = self._streams.get(device)
        if stream is not None:
            stream.send(slot, Passed(body))
        return stream is not None

    def answered_elsewhere(self, device: str, slot: str, body: bytes) -> bool:
        """Carry a device's answer to the hub that asked it; return whether another one did."""
        return self._streams.elsewhere.answered(device, slot, body)

    def changed_elsewhere(self, devices: Sequence[Device]) -> None:
        """Take note of what other hubs made of devices. May be called from any thread."""
        for device in devices:
            if device.revoked_at is not None:
                self._admission.shut_out(device.name)
        self.connections.changed_elsewhere(devices)

    def deleted_elsewhere(self, devices: Sequence[str]) -> None:
        """Take note of devices that another hub has forgotten. May be called from any thread."""
        for device in devices:
            self._admission.shut_out(device)
            self.connections.shut_out(device, Unauthenticated(f"device {device} was deleted; enrol it again"))

    # Help from afar

    async def log(self, name: str, cursor: str = "", max_bytes: int = 0) -> HelpAnswer:
        """Return what a connected device's agent logged, the newest or since a cursor."""
        return await self._helping.ask(self.get(name).name, HelpKind.LOG, cursor, max_bytes)

    async def diagnose(self, name: str) -> bytes:
        """Return log, state, inventory, versions and checks of a connected device as a .tar.gz, without secrets."""
        return (await self._helping.ask(self.get(name).name, HelpKind.DIAGNOSTICS)).content

    def restart(self, name: str) -> Device:
        """Want the device's agent to start anew, now or when it connects."""
        return self._want(name, restart=True)

    def profile(self, name: str) -> Device:
        """Want the device to probe its hardware and time its model again, now or when it connects."""
        return self._want(name, profile=True)

    def upgrade(self, name: str) -> Device:
        """Want the device's agent to take this hub's in its own place, now or when it connects.

        Of one that is on line and runs it nothing is wanted. Raises FailedPrecondition without a release. It may have to be made, which
        takes some tens of milliseconds.
        """
        device = self.get(name)
        release = self._helping.release()
        if device.state is DeviceState.ONLINE and rules_upgrades.runs_release(device.agent_version, release.version):
            return device
        return self._want(name, upgrade=release)

    def agent_release(self) -> AgentRelease:
        """Return the agent that fits this hub. Raises FailedPrecondition where it has none, or its signature lacks."""
        return self._helping.release()

    def upgrade_all(self, names: Sequence[str]) -> dict[str, int]:
        """Want these devices' agents to take this hub's, in one commit; return how often each was to upgrade in all.

        Also of those that run it: those answer so. Devices that are not there any more are left out.
        """
        release = self._helping.release()
        with self._database.session() as session:
            devices = [device for name in names if (device := session.get(Device, name)) is not None]
            for device in devices:
                self._helping.want(session, device, upgrade=release)
        for device in devices:
            self._helping.send(device)
            self._events.publish(f"devices/{device.name}", device)
        return {device.name: device.wanted_upgrades for device in devices}

    def offer_release(self, release: Callable[[], AgentRelease]) -> None:
        """Let devices upgrade to what this returns."""
        self._helping.release = release

    def _want(self, name: str, **what: Any) -> Device:
        with self._database.session() as session:
            device = session.get(Device, self.get(name).name)
            assert device is not None
            self._helping.want(session, device, **what)
        self._helping.send(device)
        self._events.publish(f"devices/{device.name}", device)
        return device

    def delete(self, name: str) -> None:
        """Forget the device: its connections end, its certificate is refused. Its measurements stay with its type."""
        device = self.get(name)
        with self._database.session() as session:
            session.exec(delete(Device).where(col(Device.name) == device.name))
            session.exec(delete(Assignment).where(col(Assignment.device) == device.name))
            session.exec(delete(StepLog).where(col(StepLog.device) == device.name))
            session.exec(delete(Transferred).where(col(Transferred.device) == device.name))
            session.exec(delete(DeviceBuild).where(col(DeviceBuild.device) == device.name))
        self._admission.shut_out(device.name)
        self.connections.shut_out(device.name, Unauthenticated(f"device {device.name} was deleted; enrol it again"))
        device.state = DeviceState.OFFLINE
        self._events.publish(f"devices/{device.name}", device)

    # Types

    def types(self, page_size: int = 0, page_token: str = "") -> tuple[_Types, str]:
        with self._database.session() as session:
            types, token = page(session, select(DeviceType), col(DeviceType.name), page_size, page_token)
            session.expunge_all()
        return self._filled(types), token

    def get_type(self, name: str) -> DeviceType:
        with self._database.session() as session:
            found = session.get(DeviceType, name.removeprefix("device_types/"))
            session.expunge_all()
        if found is None:
            raise NotFound(f"no device type {name!r}; see: milonga types list")
        return self._filled([found])[0]

    def default_targets(self, inventory: Inventory) -> _Names:
        """Return what to build for such a device where a project names no targets, the preferred first."""
        return rules.default_targets(inventory, rules.known_type(inventory, shipped()), buildable_engines())

    def _filled(self, types: _Types) -> _Types:
        """Fill in what is not kept up in the database: how many devices there are, and what is known of their boards."""
        with self._database.session() as session:
            counts = dict(session.exec(select(Device.device_type, func.count()).group_by(Device.device_type)).all())
        engines = buildable_engines()
        for each in types:
            board = rules.known_type(each.inventory, shipped())
            each.device_count = counts.get(each.name, 0)
            each.known_type = board.name if board else ""
            each.verification = rules.verification(board, each.simulated)
            each.targets = rules.default_targets(each.inventory, board, engines)
        return types

    # What they should run

    def assign(
        self,
        device: str,
        bundle: str,
        files: Sequence[File],
        model_version: str,
        project: str,
        engine: str,
        expected_ms: float = 0.0,
        shadow: ShadowSpec | None = None,
    ) -> int:
        """Want the device to serve the bundle ("" for none) and return the generation of this wish.

        With `shadow`, it serves only where it compares well with what serves now. The same wish as the newest keeps its
        generation. The wish is stored first, then sent if the device is
        connected; others get it when they connect.
        """
        name = self.get(device).name
        wanted = Wanted(name, bundle, files, model_version, project, engine, expected_ms, shadow)
        return self._assigning.assign([wanted])[name]

    def assign_all(self, wanted: Sequence[Wanted]) -> dict[str, int]:
        """As `assign` for many devices, in one commit; return the generations of the wishes by device."""
        return self._assigning.assign(wanted)

    def assignment(self, device: str) -> Assignment | None:
        """Return the newest wish for the device, None where there was none yet."""
        with self._database.session() as session:
            return session.get(Assignment, device)

    def assigned_projects(self, devices: Sequence[str]) -> dict[str, str]:
        """Return by device the project that it is assigned to; without those that are assigned to none."""
        return self._assigning.projects(devices)

    def expected_latencies(self) -> dict[str, tuple[str, float]]:
        """Return by device the bundle that it shall serve and the median that was measured of it, 0 for none."""
        columns = (Assignment.device, Assignment.bundle, Assignment.expected_ms)
        with self._database.session() as session:
            return {device: (bundle, expected_ms) for device, bundle, expected_ms in session.exec(select(*columns))}

    def steps(self, device: str, generation: int | None = None) -> _Steps:
        """Return what the device reported, oldest first, of one generation or of all."""
        statement = select(StepLog).where(StepLog.device == device).order_by(col(StepLog.id))
        if generation is not None:
            statement = statement.where(StepLog.generation == generation)
        with self._database.session() as session:
            return [*session.exec(statement)]

    def last_steps(self, generations: Mapping[str, int]) -> dict[str, LastStep]:
        """Return what each of these devices told last of this generation of its assignment, where it told anything."""
        with self._database.session() as session:
            return last_steps(session, generations)

    def step_log(
        self, device: str, generation: int = 0, page_size: int = 0, page_token: str = ""
    ) -> tuple[_Steps, str]:
        """Return a page of what the device reported of its steps, oldest first, of one generation or (0) of all."""
        statement = select(StepLog).where(StepLog.device == self.get(device).name)
        if generation:
            statement = statement.where(StepLog.generation == generation)
        with self._database.session() as session:
            return page(session, statement, col(StepLog.id), page_size, page_token)

    def transfers(self, device: str) -> DeviceTransfers:
        """Return what came to the device of its builds, from where, and what it sent to its neighbours. Raises NotFound."""
        name = self.get(device).name
        return transferred.of_device(self._database, name, self.caches.addresses_of(name))

    def transfers_of_project(self, project: str) -> transferred.Totals:
        """Return what came to devices of the project's builds."""
        return transferred.of_project(self._database, project)

    def device_builds(
        self, device: str = "", bundle: str = "", page_size: int = 0, page_token: str = ""
    ) -> tuple[_DeviceBuilds, str]:
        """Return what came of builds on devices: of one device or all, of one bundle or all."""
        statement = select(DeviceBuild)
        if device:
            statement = statement.where(DeviceBuild.device == self.get(device).name)
        if bundle:
            statement = statement.where(DeviceBuild.bundle == bundle)
        with self._database.session() as session:
            return page(session, statement, col(DeviceBuild.id), page_size, page_token)

    def tell_sampling(self, device: str, policy: SamplingPolicy) -> None:
        """Tell a connected device which pictures it may keep and send; others are told when they connect."""
        self._streams.send(device, "sampling", policy)

    def may_fetch(self, device: str, digest: str) -> bool:
        """Say whether the file belongs to what the device is assigned, or is asked to measure, to time or to upgrade to now."""
        assignment = self.assignment(device)
        if assignment is not None and any(file.digest == digest for file in assignment.files):
            return True
        asked = (self._measuring, self._timing, self._helping, self._streams.elsewhere)
        return any(digest in each.digests_for(device) for each in asked)

    def known_to(self, device: str, digest: str, bundles: Sequence[str]) -> tuple[str, _Names]:
        """Return the path of the file in what the device is assigned, and those of the bundles that it may know of.

        A delta tells of what it begins from: only bundles of the project that the device works for are taken.
        """
        assignment = self.assignment(device)
        if assignment is None:
            return "", []
        path = next((file.path for file in assignment.files if file.digest == digest), "")
        with self._database.session() as session:
            found = [session.get(KnownBundle, bundle) for bundle in bundles[:_MOST_HELD]]
        return path, [one.bundle for one in found if one is not None and one.project == assignment.project]

    async def watch_heartbeats(self) -> None:
        """Note for ever which devices went silent; the hub runs this beside its servers."""
        await self.connections.watch_heartbeats()

    # Measuring

    async def measure(
        self,
        device_type: str,
        items: Sequence[MeasurementItem],
        run: str,
        purpose: str,
        on_progress: OnProgress = lambda finished, total: None,
    ) -> _Measurements:
        """Return one measurement for each item, in their order; failed ones carry an error. See measuring.py."""
        return await self._measuring.measure(device_type, items, run, purpose, on_progress)

    async def compare(
        self,
        device_type: str,
        items: Sequence[MeasurementItem],
        run: str,
        purpose: str,
        on_progress: OnProgress = lambda finished, total: None,
        on_round: OnRound = lambda words: None,
    ) -> _Measurements:
        """Return one measurement for each item, close ones measured in turn until the fastest is known. See comparing.py."""
        return await self._comparing.compare(device_type, items, run, purpose, on_progress, on_round)

    async def time_kernels(
        self,
        device_type: str,
        item: TimingItem,
        wanted: str = "",
        preferred: str = "",
        *,
        tell: Callable[[str], None] = lambda words: None,
    ) -> Timed:
        """Return what kernels take on a device of the type. See timing.py."""
        return await self._timing.time(device_type, item, wanted, preferred, tell=tell)

    def measurements(
        self, device_type: str = "", run: str = "", page_size: int = 0, page_token: str = ""
    ) -> tuple[_Measurements, str]:
        statement = select(Measurement)
        if device_type:
            statement = statement.where(Measurement.device_type == device_type)
        if run:
            statement = statement.where(Measurement.run == run)
        with self._database.session() as session:
            return page(session, statement, col(Measurement.id), page_size, page_token)

    def measured(self, subnets: Sequence[str]) -> _Measurements:
        """Return every measurement that succeeded of these subnets, on any device, in any run."""
        wanted = set(subnets)
        with self._database.session() as session:
            statement = select(Measurement).where(col(Measurement.median_ms).is_not(None)).order_by(col(Measurement.id))
            return [one for one in session.exec(statement) if one.subnet in wanted]
