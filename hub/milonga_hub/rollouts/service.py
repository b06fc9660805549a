"""Rollouts: create them, look at them, stop them; and the loop that carries them forward."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sqlmodel import Session, col, select

from milonga_hub.builds.models import Build
from milonga_hub.builds.rules import objection_to
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import Assignment, Device, DeviceState, File, StepLog
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.paging import page
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, RolloutState, Step, Wave
from milonga_hub.rollouts.rules import (
    Assign,
    EndWave,
    Pause,
    Report,
    Succeed,
    Wait,
    next_action,
    observed,
    plan_waves,
)

_log = logging.getLogger(__name__)

OPEN = (RolloutState.RUNNING, RolloutState.PAUSED)
# Events wake the loop; this is how long a missed one could matter.
_POLL_SECONDS = 5.0
# News of many devices at once is looked at together.
_SETTLE_SECONDS = 0.05

# RolloutService.list hides the builtin inside the class.
_Rollouts = list[Rollout]


class Devices(Protocol):
    """What rollouts need of DeviceService."""

    def matching(self, selector: str) -> list[Device]: ...
    def get(self, name: str) -> Device: ...
    def assignment(self, device: str) -> Assignment | None: ...
    def steps(self, device: str, generation: int | None = None) -> list[StepLog]: ...
    def assign(
        self,
        device: str,
        bundle: str,
        files: Sequence[File],
        model_version: str,
        project: str,
        engine: str,
        expected_ms: float = 0.0,
    ) -> int: ...


class Builds(Protocol):
    """What rollouts need of BuildService."""

    def chosen(self, model_version: str) -> dict[str, Build]: ...
    def by_bundle(self, digest: str) -> Build | None: ...


class RolloutService:
    """The state of every rollout is in the database: a hub that restarts goes on where the last one stopped."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        devices: Devices,
        builds: Builds,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._events = events
        self._devices = devices
        self._builds = builds
        self._clock = clock
        # Each change reads the newest state and writes the next one.
        self._changing = threading.RLock()

    def create(
        self, model_version: str, project: str, selector: str, spec: RolloutSpec, request_id: str = ""
    ) -> Rollout:
        """Plan the waves and begin. An open rollout of the same project ends here, superseded."""
        with self._changing:
            known = self._requested(request_id)
            if known is not None:
                return known
            rollout = self._planned(model_version, project, selector, spec)
            rollout.request_id = request_id
            superseded = self._save_superseding(rollout)
        for each in (*superseded, rollout):
            self._tell(each)
        return rollout

    def get(self, id: str) -> Rollout:
        with self._database.session() as session:
            rollout = session.get(Rollout, id.removeprefix("rollouts/"))
        if rollout is None:
            raise NotFound(f"there is no rollout {id}; list them with: milonga rollouts list")
        return rollout

    def list(self, project: str = "", page_size: int = 0, page_token: str = "") -> tuple[_Rollouts, str]:
        """Return rollouts, the newest first."""
        statement = select(Rollout)
        if project:
            statement = statement.where(Rollout.project == project)
        with self._database.session() as session:
            return page(session, statement, col(Rollout.created_at), page_size, page_token, newest_first=True)

    def pause(self, id: str) -> Rollout:
        """Begin no further wave; devices that have their assignment finish it."""
        return self._change(id, (RolloutState.RUNNING,), state=RolloutState.PAUSED, reason="paused by hand")

    def resume(self, id: str) -> Rollout:
        """Go on, and let devices that failed try again."""
        with self._changing:
            devices = [_tried_again(device) for device in self.get(id).devices]
            return self._change(id, (RolloutState.PAUSED,), state=RolloutState.RUNNING, reason="", devices=devices)

    def abort(self, id: str) -> Rollout:
        """End for good. Devices keep what they have, those under way included."""
        now = self._clock()
        return self._change(id, OPEN, state=RolloutState.ABORTED, reason="aborted by hand", ended_at=now)

    async def finished(self, id: str) -> Rollout:
        """Return the rollout once it has succeeded, was aborted, or is paused and needs a person."""
        name = self.get(id).id
        with self._events.listen(f"rollouts/{name}") as events:
            while True:
                rollout = self.get(name)
                if rollout.state is not RolloutState.RUNNING:
                    return rollout
                with contextlib.suppress(TimeoutError):
                    await events.next(_POLL_SECONDS)

    async def run(self) -> None:
        """Carry all running rollouts forward, for ever: after any news, and when a soak is over."""
        with self._events.listen("devices/", "steps/", "rollouts/") as events:
            while True:
                wait = self.advance()
                with contextlib.suppress(TimeoutError):
                    await events.next(min(wait, _POLL_SECONDS))
                    await asyncio.sleep(_SETTLE_SECONDS)

    def advance(self) -> float:
        """Do for every running rollout what can be done now; return the seconds until there may be more."""
        with self._database.session() as session:
            ids = session.exec(select(Rollout.id).where(Rollout.state == RolloutState.RUNNING)).all()
        waits = [_POLL_SECONDS]
        for id in ids:
            try:
                until = self._advance(id)
            except Exception:
                # One rollout that cannot go on does not hold up the others; it is tried again.
                _log.exception("rollout %s could not go on", id)
                continue
            if until is not None:
                waits.append(max(0.01, (until - self._clock()).total_seconds()))
        return min(waits)

    # One rollout.

    def _advance(self, id: str) -> datetime | None:
        with self._changing:
            rollout = self.get(id)
            before = rollout.model_dump()
            until = self._step(rollout)
            if rollout.model_dump() == before:
                return until
            with self._database.session() as session:
                session.merge(rollout)
        self._tell(rollout)
        return until

    def _step(self, rollout: Rollout) -> datetime | None:
        """Apply actions until there is one to wait for; return the time to look again."""
        while rollout.state is RolloutState.RUNNING:
            now = self._clock()
            reports = self._reports(rollout)
            rollout.devices, rollout.waves = observed(rollout, reports, now)
            match next_action(rollout, reports, now):
                case Assign(wave, names):
                    self._assign(rollout, wave, names, now)
                case EndWave(wave):
                    rollout.waves = _with_wave(rollout.waves, wave, soaked_at=now)
                case Wait(reason, until):
                    rollout.reason = reason
                    return until
                case Pause(reason):
                    rollout.state, rollout.reason = RolloutState.PAUSED, reason
                case Succeed(reason):
                    rollout.state, rollout.reason, rollout.ended_at = RolloutState.SUCCEEDED, reason, now
        return None

    def _reports(self, rollout: Rollout) -> dict[str, Report]:
        found = {device.name: device for device in self._devices.matching("")}
        return {each.device: self._report(each, found[each.device]) for each in rollout.devices if each.device in found}

    def _report(self, each: RolloutDevice, device: Device) -> Report:
        last = None
        if each.generation and each.state is not RolloutDeviceState.SUCCEEDED:
            steps = self._devices.steps(device.name, each.generation)
            last = next((s for s in reversed(steps) if s.state == "FAILED"), steps[-1] if steps else None)
        return Report(
            device=device.name,
            online=device.state is DeviceState.ONLINE,
            assigned_generation=device.assigned_generation,
            reported_generation=device.reported_generation,
            active_bundle=device.active_bundle,
            step=Step(last.step) if last is not None and last.step in Step.__members__ else None,
            message=last.message if last is not None else "",
        )

    def _assign(self, rollout: Rollout, wave: int, names: Sequence[str], now: datetime) -> None:
        # Safe to repeat after a crash: an equal wish keeps its generation.
        generations = {each.device: self._wish(rollout, each) for each in rollout.devices if each.device in names}
        rollout.devices = [
            each.model_copy(update={"generation": generations[each.device], "updated_at": now})
            if each.device in generations
            else each
            for each in rollout.devices
        ]
        if rollout.waves[wave].started_at is None:
            rollout.waves = _with_wave(rollout.waves, wave, started_at=now)

    def _wish(self, rollout: Rollout, each: RolloutDevice) -> int:
        build = self._builds.by_bundle(each.bundle)
        if build is None:
            raise FailedPrecondition(f"the build with bundle {each.bundle} is gone; start another rollout")
        device = self._devices.get(each.device)
        newest = self._devices.assignment(device.name)
        if newest is not None and newest.bundle == each.bundle and _gave_up(device, newest):
            # The device has ended this wish in failure and would not look at it again. Wishing first for what it has
            # gives the old wish a new number, without changing what it serves.
            self._wish_for_what_it_has(device)
        engine = f"{build.engine}/{build.precision}"
        # Builds that device types share were measured on one of them, which need not be this one.
        expected_ms = build.measured_ms or 0.0 if build.device_type == device.device_type else 0.0
        return self._devices.assign(
            device.name, build.bundle, build.files, rollout.model_version, rollout.project, engine, expected_ms
        )

    def _wish_for_what_it_has(self, device: Device) -> None:
        had = self._builds.by_bundle(device.active_bundle) if device.active_bundle else None
        if had is not None:
            engine = f"{had.engine}/{had.precision}"
            self._devices.assign(device.name, had.bundle, had.files, had.model_version, "", engine)
        elif not device.active_bundle:
            self._devices.assign(device.name, "", [], "", "", "")

    # Making and changing.

    def _planned(self, model_version: str, project: str, selector: str, spec: RolloutSpec) -> Rollout:
        builds = self._builds.chosen(model_version)
        for build in builds.values():
            if why_not := objection_to(build):
                raise FailedPrecondition(
                    f"{build.name} may not go out: {why_not}; choose another (milonga build choose), or allow this one:"
                    f" milonga build override {build.name} --reason WHY"
                )
        devices = self._devices.matching(selector)
        if not devices:
            raise FailedPrecondition(f"no device matches {selector!r}; see: milonga devices list")
        able = [device for device in devices if device.device_type in builds]
        if not able:
            types = ", ".join(sorted({device.device_type for device in devices}))
            raise FailedPrecondition(
                f"{model_version} has no chosen build for {types}; see: milonga build ls {model_version}"
            )
        id = self._next_id(project)
        waves = plan_waves([device.name for device in able], spec.waves, seed=id)
        wave_of = {name: index for index, wave in enumerate(waves) for name in wave}
        return Rollout(
            id=id,
            project=project,
            model_version=model_version,
            spec=spec,
            waves=[Wave(index=index, device_count=len(wave)) for index, wave in enumerate(waves)],
            devices=[self._member(device, wave_of, builds) for device in devices],
            created_at=self._later_than_all(),
        )

    def _later_than_all(self) -> datetime:
        """Rollouts are listed by this time: no two may share it, and a clock set back must not shuffle them."""
        with self._database.session() as session:
            newest = session.exec(select(Rollout.created_at).order_by(col(Rollout.created_at).desc()).limit(1)).first()
        now = self._clock()
        return now if newest is None else max(now, newest + timedelta(microseconds=1))

    @staticmethod
    def _member(device: Device, wave_of: dict[str, int], builds: dict[str, Build]) -> RolloutDevice:
        if device.name in wave_of:
            bundle = builds[device.device_type].bundle
            return RolloutDevice(device=device.name, wave=wave_of[device.name], bundle=bundle)
        message = f"left out: there is no chosen build for {device.device_type}"
        return RolloutDevice(device=device.name, wave=LEFT_OUT, state=RolloutDeviceState.FAILED, message=message)

    def _next_id(self, project: str) -> str:
        if not project:
            raise InvalidInput("name the project that the rollout belongs to")
        with self._database.session() as session:
            ids = session.exec(select(Rollout.id).where(Rollout.project == project)).all()
        return f"{project}-{max((int(id.rpartition('-')[2]) for id in ids), default=0) + 1}"

    def _requested(self, request_id: str) -> Rollout | None:
        if not request_id:
            return None
        with self._database.session() as session:
            return session.exec(select(Rollout).where(Rollout.request_id == request_id)).first()

    def _save_superseding(self, rollout: Rollout) -> _Rollouts:
        with self._database.session() as session:
            former = self._open_ones(session, rollout.project)
            for each in former:
                each.state = RolloutState.ABORTED
                each.reason = f"superseded by {rollout.id}"
                each.ended_at = self._clock()
                session.add(each)
            session.add(rollout)
        return former

    @staticmethod
    def _open_ones(session: Session, project: str) -> _Rollouts:
        return [*session.exec(select(Rollout).where(Rollout.project == project, col(Rollout.state).in_(OPEN)))]

    def _change(self, id: str, allowed: Sequence[RolloutState], **values: object) -> Rollout:
        with self._changing:
            rollout = self.get(id)
            if rollout.state not in allowed:
                wanted = " or ".join(state.lower() for state in allowed)
                raise FailedPrecondition(f"rollout {rollout.id} is {rollout.state.lower()}, not {wanted}")
            for field, value in values.items():
                setattr(rollout, field, value)
            with self._database.session() as session:
                rollout = session.merge(rollout)
        self._tell(rollout)
        return rollout

    def _tell(self, rollout: Rollout) -> None:
        self._events.publish(f"rollouts/{rollout.id}", rollout)


def _tried_again(device: RolloutDevice) -> RolloutDevice:
    if device.wave == LEFT_OUT or device.state is not RolloutDeviceState.FAILED:
        return device
    fresh = {"state": RolloutDeviceState.WAITING, "generation": 0, "step": None, "message": ""}
    return device.model_copy(update=fresh)


def _gave_up(device: Device, wish: Assignment) -> bool:
    return device.reported_generation >= wish.generation and device.active_bundle != wish.bundle


def _with_wave(waves: Sequence[Wave], index: int, **values: datetime) -> list[Wave]:
    return [wave.model_copy(update=values) if wave.index == index else wave for wave in waves]
