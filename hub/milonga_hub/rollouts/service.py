"""Rollouts: create them, look at them, stop them; and the loop that carries them forward."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import defer
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from milonga_hub import tracing
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import DeviceState
from milonga_hub.devices.service import LastStep, Standing
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.paging import of_projects, page
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.assigning import Assigner
from milonga_hub.rollouts.models import (
    LEFT_OUT,
    OPEN,
    Rollout,
    RolloutDevice,
    RolloutDeviceState,
    RolloutState,
    Step,
    Wave,
)
from milonga_hub.rollouts.needs import Asked, Builds, Devices, Requests
from milonga_hub.rollouts.planning import Claims, Planner
from milonga_hub.rollouts.rolling_back import before, planned_back
from milonga_hub.rollouts.rules import (
    Assign,
    EndWave,
    Pause,
    Report,
    RollBack,
    Succeed,
    Wait,
    next_action,
    observed,
    too_many_failures,
)
from milonga_hub.rollouts.rules_waves import joined

_log = logging.getLogger(__name__)

# Devices still come late or join later.
_LIVE = (RolloutState.RUNNING, RolloutState.SUCCEEDED)
# Events wake the loop; this is how long a missed one could matter.
_POLL_SECONDS = 5.0
# News of many devices at once is looked at together.
_SETTLE_SECONDS = 0.05
# After news of devices, rollouts that have succeeded are looked at this often at most; without news, so often.
_FOLLOW_SECONDS = 5.0
_FOLLOW_IDLE_SECONDS = 60.0

_NO_STEP = LastStep("", "", "")
# Of a project's rollouts, how many are looked through for what a device had before.
_REMEMBERED = 100

# RolloutService.list hides the builtin inside the class.
_Rollouts = list[Rollout]


class RolloutService:
    """The state of every rollout is in the database: a hub that restarts goes on where the last one stopped."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        devices: Devices,
        builds: Builds,
        clock: Callable[[], datetime] = utc_now,
        asked: Asked = lambda project, since, until: {},
    ) -> None:
        self._database = database
        self._events = events
        self._devices = devices
        self._asked = asked
        self._planner = Planner(devices, builds, clock)
        self._assigner = Assigner(devices, builds)
        self._clock = clock
        # Each change reads the newest state and writes the next one.
        self._changing = database.turn("rollouts")

    def create(
        self, model_version: str, project: str, selector: str, spec: RolloutSpec, request_id: str = ""
    ) -> Rollout:
        """Plan the waves and begin, or wait for approval. An open rollout of the same project ends here, superseded."""
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

    def rehearse(self, model_version: str, project: str, selector: str, spec: RolloutSpec) -> Rollout:
        """Return what `create` would make now, and for each device what it would wait for; nothing is kept."""
        return self._planner.rehearse(self._planned(model_version, project, selector, spec))

    def get(self, id: str) -> Rollout:
        with self._database.session() as session:
            rollout = session.get(Rollout, id.removeprefix("rollouts/"))
        if rollout is None:
            raise NotFound(f"there is no rollout {id}; list them with: milonga rollouts list")
        return rollout

    def list(
        self, project: str = "", page_size: int = 0, page_token: str = "", projects: Collection[str] | None = None
    ) -> tuple[_Rollouts, str]:
        """Return rollouts, the newest first."""
        return self._list(select(Rollout), project, page_size, page_token, projects)

    def headlines(
        self, project: str = "", model_version: str = "", page_size: int = 0, page_token: str = ""
    ) -> tuple[_Rollouts, str]:
        """Return rollouts without their devices, the newest first: of large fleets those take a tenth of a second each.

        Reading `devices` of one raises; their counts stand in its waves.
        """
        devices: Any = Rollout.devices
        statement = select(Rollout).options(defer(devices))
        if model_version:
            statement = statement.where(Rollout.model_version == model_version)
        return self._list(statement, project, page_size, page_token)

    def _list(
        self,
        statement: SelectOfScalar[Rollout],
        project: str,
        page_size: int,
        page_token: str,
        projects: Collection[str] | None = None,
    ) -> tuple[_Rollouts, str]:
        statement = of_projects(statement, col(Rollout.project), projects)
        if project:
            statement = statement.where(Rollout.project == project)
        with self._database.session() as session:
            return page(session, statement, col(Rollout.created_at), page_size, page_token, newest_first=True)

    def since(self, moment: datetime) -> _Rollouts:
        """Return the rollouts that came into their state since then."""
        with self._database.session() as session:
            return [*session.exec(select(Rollout).where(col(Rollout.state_at) >= moment))]

    def pause(self, id: str) -> Rollout:
        """Begin no further wave; devices that have their assignment finish it."""
        return self._change(id, (RolloutState.RUNNING,), state=RolloutState.PAUSED, reason="paused by hand")

    def approve(self, id: str) -> Rollout:
        """Let a rollout begin that waits for a person."""
        return self._change(id, (RolloutState.AWAITING_APPROVAL,), state=RolloutState.RUNNING, reason="")

    def resume(self, id: str) -> Rollout:
        """Go on, and let devices that failed try again."""
        with self._changing:
            devices = [_tried_again(device) for device in self.get(id).devices]
            return self._change(id, (RolloutState.PAUSED,), state=RolloutState.RUNNING, reason="", devices=devices)

    def retry(self, id: str) -> Rollout:
        """Let the devices that failed try again, and no others; a paused rollout goes on."""
        with self._changing:
            rollout = self.get(id)
            if rollout.state is RolloutState.PAUSED:
                return self.resume(id)
            if rollout.state in _LIVE and rollout.id not in self._live():
                raise FailedPrecondition(f"a newer rollout of {rollout.project} took the place of {rollout.id}")
            devices = [_tried_again(device) for device in rollout.devices]
            if devices == rollout.devices:
                raise FailedPrecondition(f"no device of rollout {rollout.id} has failed")
            return self._change(id, _LIVE, devices=devices)

    def abort(self, id: str) -> Rollout:
        """End for good. Devices keep what they have, those under way included."""
        now = self._clock()
        return self._change(id, OPEN, state=RolloutState.ABORTED, reason="aborted by hand", ended_at=now)

    def roll_back(self, id: str) -> Rollout:
        """End the newest rollout of a project, and let devices that were given its version go back to what each had before.

        Returns the rollout that does so; asked again, the same. Raises FailedPrecondition where there is nothing to go back to.
        """
        with self._changing:
            rollout = self.get(id)
            newest = self._newest(rollout.project)
            if newest.rolls_back == rollout.id:
                return newest
            back = self._back(rollout)
            if rollout.state is RolloutState.ABORTED:
                rollout.reason = f"rolled back by {back.id}"
            else:
                # Also one that has succeeded: newcomers shall not get it.
                _supersede(rollout, f"rolled back by {back.id}", self._clock())
            with self._database.session() as session:
                rollout = session.merge(rollout)
                session.add(back)
        for each in (rollout, back):
            self._tell(each)
        return back

    async def finished(self, id: str) -> Rollout:
        """Return the rollout once it has succeeded, was aborted, or is paused and needs a person."""
        name = self.get(id).id
        with self._events.listen(f"rollouts/{name}") as events:
            while True:
                rollout = self.get(name)
                if rollout.state not in (RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL):
                    return rollout
                with contextlib.suppress(TimeoutError):
                    await events.next(_POLL_SECONDS)

    async def run(self) -> None:
        """Carry all running rollouts forward, for ever: after any news, and when a soak is over."""
        news, followed_at = True, -math.inf
        with self._events.listen("devices/", "steps/", "rollouts/") as events:
            while True:
                now = time.monotonic()
                follow = now - followed_at >= (_FOLLOW_SECONDS if news else _FOLLOW_IDLE_SECONDS)
                if follow:
                    news, followed_at = False, now
                # In a thread: a large fleet takes a while, and its streams go on.
                wait = await asyncio.to_thread(self.advance, follow)
                # While a wave is under way there is always news: looking at it takes half of the time at most.
                settle_seconds = max(_SETTLE_SECONDS, time.monotonic() - now)
                with contextlib.suppress(TimeoutError):
                    await events.next(min(wait, _POLL_SECONDS))
                    news = True
                    await asyncio.sleep(settle_seconds)
                    events.waiting()

    def advance(self, follow: bool = True) -> float:
        """Do for every running rollout what can be done now; return the seconds until there may be more.

        With `follow`, look after devices that come late or join later where a project's newest rollout has succeeded, too.
        """
        waits = [_POLL_SECONDS]
        for id, state in self._live().items():
            if state is RolloutState.SUCCEEDED and not follow:
                continue
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
            before, made = rollout.model_dump(), list[Rollout]()
            with tracing.span("rollout step", rollout=rollout.id):
                until = self._step(rollout, made)
            if rollout.model_dump() == before:
                return until
            with self._database.session() as session:
                session.merge(rollout)
                session.add_all(made)
        for each in (rollout, *made):
            self._tell(each)
        return until

    def _live(self) -> dict[str, RolloutState]:
        """Return the rollouts to carry forward: of each project the open one if it runs, else the last that succeeded.

        One that takes another back, in whole, stands beside the one that has succeeded before.
        """
        columns = (Rollout.id, Rollout.project, Rollout.state, Rollout.rolls_back)
        statement = select(*columns).where(col(Rollout.state) != RolloutState.ABORTED)
        with self._database.session() as session:
            found = session.exec(statement.order_by(col(Rollout.created_at))).all()
        newest: dict[str, dict[str, RolloutState]] = {}
        for id, project, state, rolls_back in found:
            newest[project] = {**(newest.get(project, {}) if rolls_back else {}), id: RolloutState(state)}
        return {id: state for each in newest.values() for id, state in each.items() if state in _LIVE}

    def _claims(self, rollout: Rollout) -> Claims:
        """Return which devices belong to newer rollouts of other projects: of two over one device, the later wins."""
        statement = select(Rollout).where(
            col(Rollout.created_at) > rollout.created_at,
            Rollout.project != rollout.project,
            col(Rollout.state) != RolloutState.ABORTED,
        )
        with self._database.session() as session:
            newer = session.exec(statement.order_by(col(Rollout.created_at))).all()
        latest = {each.project: each for each in newer}
        return {
            device.device: each.id
            for each in latest.values()
            for device in each.devices
            if device.generation and device.wave != LEFT_OUT
        }

    def _step(self, rollout: Rollout, made: _Rollouts) -> datetime | None:
        """Apply actions until there is one to wait for; return the time to look again. Adds what takes this one back to `made`."""
        # Read once: what is done here changes nothing of it that would be looked at.
        fleet = {device.name: device for device in self._devices.standings()}
        # First: what the rollout did and could not note is not to be taken for another's doing.
        rollout.devices, rollout.waves = observed(rollout, self._reports(rollout, fleet), self._clock())
        if rollout.selector is not None and not too_many_failures(rollout):
            entrants = self._planner.entrants(rollout, [*fleet.values()], self._claims(rollout))
            rollout.devices, rollout.waves = joined(rollout, entrants)
        asked = self._asked_since_it_runs(rollout)
        while rollout.state in _LIVE:
            now = self._clock()
            reports = self._reports(rollout, fleet)
            rollout.devices, rollout.waves = observed(rollout, reports, now)
            match next_action(rollout, reports, now, asked):
                case Assign(_, names):
                    self._assign(rollout, names, fleet, now)
                case EndWave(wave):
                    rollout.waves = _with_wave(rollout.waves, wave, soaked_at=now)
                case Wait(reason, until):
                    rollout.reason = reason
                    return until
                case Pause(reason):
                    _pause(rollout, reason, now)
                case RollBack(reason):
                    try:
                        back = self._back(rollout)
                    except FailedPrecondition as error:
                        _pause(rollout, f"{reason}; it could not be rolled back: {error}", now)
                    else:
                        made.append(back)
                        _supersede(rollout, f"rolled back by {back.id}: {reason}", now)
                case Succeed(reason):
                    if rollout.state is not RolloutState.SUCCEEDED:
                        rollout.state_at = now
                    rollout.state, rollout.reason = RolloutState.SUCCEEDED, reason
                    rollout.ended_at = rollout.ended_at or now
                    return None
        return None

    def _asked_since_it_runs(self, rollout: Rollout) -> Mapping[str, Requests]:
        """Return what clients asked by version, since it began or was resumed; nothing where that decides nothing."""
        began = min((wave.started_at for wave in rollout.waves if wave.started_at is not None), default=None)
        if rollout.spec.max_error_increase is None or rollout.state is not RolloutState.RUNNING or began is None:
            return {}
        if rollout.state_at is not None and rollout.state_at > began:
            # They are counted by the minute: those of the minute in which it was resumed have been judged.
            began = rollout.state_at + timedelta(minutes=1)
        return self._asked(rollout.project, began, self._clock())

    def _back(self, rollout: Rollout) -> Rollout:
        """Return the rollout that takes this one back. Raises FailedPrecondition where nothing can."""
        newest = self._newest(rollout.project)
        if newest.id != rollout.id:
            raise FailedPrecondition(f"{newest.id} of {rollout.project} is newer than {rollout.id}; roll that one back")
        if rollout.rolls_back:
            raise FailedPrecondition(
                f"{rollout.id} took {rollout.rolls_back} back; send out what you want instead: milonga rollouts create"
            )
        fleet = {device.name: device for device in self._devices.standings()}
        id, created_at = self._next_id(rollout.project), self._later_than_all()
        return planned_back(rollout, id, before(rollout, self._earlier(rollout)), fleet, created_at)

    def _newest(self, project: str) -> Rollout:
        (newest,), _ = self.list(project, page_size=1)
        return newest

    def _earlier(self, rollout: Rollout) -> Iterator[Rollout]:
        """Yield rollouts of the project from before this one, the newest first, one read at a time: they know all their devices."""
        its = col(Rollout.project) == rollout.project, col(Rollout.created_at) < rollout.created_at
        statement = select(Rollout.id).where(*its).order_by(col(Rollout.created_at).desc()).limit(_REMEMBERED)
        with self._database.session() as session:
            ids = session.exec(statement).all()
        yield from map(self.get, ids)

    def _reports(self, rollout: Rollout, fleet: Mapping[str, Standing]) -> dict[str, Report]:
        under_way = {
            each.device: each.generation
            for each in rollout.devices
            if each.generation and each.state is not RolloutDeviceState.SUCCEEDED
        }
        steps = self._devices.last_steps(under_way)
        return {
            each.device: self._report(each, fleet[each.device], steps.get(each.device, _NO_STEP))
            for each in rollout.devices
            if each.device in fleet
        }

    def _report(self, each: RolloutDevice, device: Standing, last: LastStep) -> Report:
        wish = None
        if not each.generation and device.assigned_generation > each.since_generation:
            wish = self._devices.assignment(device.name)
        return Report(
            device=device.name,
            online=device.state is DeviceState.ONLINE,
            assigned_generation=device.assigned_generation,
            assigned_bundle=wish.bundle if wish else "",
            assigned_project=wish.project if wish else "",
            reported_generation=device.reported_generation,
            active_bundle=device.active_bundle,
            step=Step(last.step) if last.step in Step.__members__ else None,
            message=last.message,
            shadow=last.shadow,
            seen_at=device.seen_at,
            time_zone=device.time_zone,
        )

    def _assign(self, rollout: Rollout, names: Sequence[str], fleet: Mapping[str, Standing], now: datetime) -> None:
        # Safe to repeat after a crash: a wish that was made keeps its generation.
        chosen = set(names)
        wanted = [each for each in rollout.devices if each.device in chosen]
        generations = self._assigner.assign(rollout, wanted, fleet)
        rollout.devices = [
            each.model_copy(update={"generation": generations[each.device], "updated_at": now})
            if each.device in generations
            else each
            for each in rollout.devices
        ]
        for wave in {each.wave for each in wanted}:
            if rollout.waves[wave].started_at is None:
                rollout.waves = _with_wave(rollout.waves, wave, started_at=now)

    # Making and changing.

    def _planned(self, model_version: str, project: str, selector: str, spec: RolloutSpec) -> Rollout:
        id, created_at = self._next_id(project), self._later_than_all()
        return self._planner.plan(id, model_version, project, selector, spec, created_at)

    def _later_than_all(self) -> datetime:
        """Rollouts are listed by this time: no two may share it, and a clock set back must not shuffle them."""
        with self._database.session() as session:
            newest = session.exec(select(Rollout.created_at).order_by(col(Rollout.created_at).desc()).limit(1)).first()
        now = self._clock()
        return now if newest is None else max(now, newest + timedelta(microseconds=1))

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
                _supersede(each, f"superseded by {rollout.id}", self._clock())
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
            if values.get("state", rollout.state) is not rollout.state:
                rollout.state_at = self._clock()
            for field, value in values.items():
                setattr(rollout, field, value)
            with self._database.session() as session:
                rollout = session.merge(rollout)
        self._tell(rollout)
        return rollout

    def _tell(self, rollout: Rollout) -> None:
        self._events.publish(f"rollouts/{rollout.id}", rollout)


def _pause(rollout: Rollout, reason: str, now: datetime) -> None:
    rollout.state, rollout.reason, rollout.ended_at, rollout.state_at = RolloutState.PAUSED, reason, None, now


def _supersede(rollout: Rollout, reason: str, now: datetime) -> None:
    rollout.state, rollout.reason = RolloutState.ABORTED, reason
    rollout.ended_at = rollout.state_at = now


def _tried_again(device: RolloutDevice) -> RolloutDevice:
    if device.wave == LEFT_OUT or device.state is not RolloutDeviceState.FAILED:
        return device
    fresh = {"state": RolloutDeviceState.WAITING, "generation": 0, "step": None, "message": "", "shadow": ""}
    return device.model_copy(update={**fresh, "since_generation": device.generation})


def _with_wave(waves: Sequence[Wave], index: int, **values: datetime) -> list[Wave]:
    return [wave.model_copy(update=values) if wave.index == index else wave for wave in waves]
