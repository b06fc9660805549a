"""Rollouts as the database keeps them: each by its id, lists of them, and how those of a project and of others stand to each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import defer
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.paging import of_projects, page
from milonga_hub.rollouts.models import LEFT_OUT, LOOKED_AFTER, OPEN, Rollout, RolloutState
from milonga_hub.rollouts.rules import is_owed

# By device, the rollout of another project that is newer than this one and has taken it.
Claims = dict[str, str]

# Of a project's rollouts, how many are looked through for what a device had before.
_REMEMBERED = 100

# Records.list hides the builtin inside the class.
_Rollouts = list[Rollout]
_Ids = list[str]


class Records:
    """Who changes a rollout does so within `changing`, reads the newest state there, saves the next one, and tells of it after."""

    def __init__(self, database: Database, events: EventBus, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._events = events
        self._clock = clock
        self.changing = database.turn("rollouts")

    def save(self, changed: Sequence[Rollout], made: Sequence[Rollout] = ()) -> None:
        """Keep what has changed and what is new: all of it or nothing."""
        with self._database.session() as session:
            for each in changed:
                session.merge(each)
            session.add_all(made)

    def tell(self, *rollouts: Rollout) -> None:
        for each in rollouts:
            self._events.publish(f"rollouts/{each.id}", each)

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

    def requested(self, request_id: str) -> Rollout | None:
        """Return the rollout that this request has made; None before."""
        if not request_id:
            return None
        with self._database.session() as session:
            return session.exec(select(Rollout).where(Rollout.request_id == request_id)).first()

    def open_ones(self, project: str) -> _Rollouts:
        with self._database.session() as session:
            statement = select(Rollout).where(Rollout.project == project, col(Rollout.state).in_(OPEN))
            return [*session.exec(statement)]

    def current_ids(self, project: str) -> _Ids:
        """Return the ids of the project's newest rollout, and of others that are open: one of agents may be so anew."""
        newest = self.newest_id(project)
        return [newest, *(each.id for each in self.open_ones(project) if each.id != newest)] if newest else []

    def newest_id(self, project: str) -> str:
        """Return the id of the project's newest rollout, of that of agents for "", and "" where there is none."""
        statement = select(Rollout.id).where(Rollout.project == project).order_by(col(Rollout.created_at).desc())
        with self._database.session() as session:
            return session.exec(statement.limit(1)).first() or ""

    def earlier(self, rollout: Rollout) -> Iterator[Rollout]:
        """Yield rollouts of the project from before this one, the newest first, one read at a time: they know all their devices."""
        its = col(Rollout.project) == rollout.project, col(Rollout.created_at) < rollout.created_at
        statement = select(Rollout.id).where(*its).order_by(col(Rollout.created_at).desc()).limit(_REMEMBERED)
        with self._database.session() as session:
            ids = session.exec(statement).all()
        yield from map(self.get, ids)

    def looked_after(self) -> dict[str, RolloutState]:
        """Return the rollouts to look after: of each project the open one, once it is approved, else the last that succeeded.

        One that takes another back, in whole, stands beside the one that has succeeded before. Those of agents stand beside
        each other while a device is owed what they bring. The newest come first: a device that two of them wait for is given
        to the one that keeps it, and not to the other for a moment.
        """
        columns = (Rollout.id, Rollout.project, Rollout.state, Rollout.rolls_back)
        statement = select(*columns).where(col(Rollout.state) != RolloutState.ABORTED)
        with self._database.session() as session:
            found = session.exec(statement.order_by(col(Rollout.created_at))).all()
            of_agents = session.exec(select(Rollout.id, Rollout.waves).where(Rollout.project == "")).all()
        owed = {id for id, waves in of_agents if is_owed(waves)}
        newest: dict[str, dict[str, RolloutState]] = {}
        for id, project, state, rolls_back in found:
            before = newest.get(project, {})
            if not project:
                before = {
                    id: state for id, state in before.items() if state is not RolloutState.SUCCEEDED or id in owed
                }
            newest[project] = {**(before if rolls_back or not project else {}), id: RolloutState(state)}
        live = {id: state for each in newest.values() for id, state in each.items() if state in LOOKED_AFTER}
        return {id: live[id] for id, *_ in reversed(found) if id in live}

    def claims(self, rollout: Rollout) -> Claims:
        """Return which devices belong to newer rollouts of other projects: of two over one device, the later wins.

        Rollouts of agents and of models take no device from each other. Among those of agents a device belongs to the newest
        that names it, told or not and however that ended: what a person stopped there, no older one does.
        """
        if rollout.agent_version:
            later = col(Rollout.created_at) > rollout.created_at, Rollout.project == rollout.project
            with self._database.session() as session:
                upgrades = session.exec(select(Rollout).where(*later).order_by(col(Rollout.created_at))).all()
            return {device.device: each.id for each in upgrades for device in each.devices if device.wave != LEFT_OUT}
        statement = select(Rollout).where(
            col(Rollout.created_at) > rollout.created_at,
            Rollout.project != rollout.project,
            Rollout.agent_version == "",
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

    def later_than_all(self) -> datetime:
        """Rollouts are listed by this time: no two may share it, and a clock set back must not shuffle them."""
        with self._database.session() as session:
            newest = session.exec(select(Rollout.created_at).order_by(col(Rollout.created_at).desc()).limit(1)).first()
        now = self._clock()
        return now if newest is None else max(now, newest + timedelta(microseconds=1))

    def next_id(self, project: str) -> str:
        if not project:
            raise InvalidInput("name the project that the rollout belongs to")
        return self._next_id(project, f"{project}-")

    def next_id_of_agents(self) -> str:
        """No project's name has a point, so that no other rollout has such an id."""
        return self._next_id("", "agents.")

    def _next_id(self, project: str, prefix: str) -> str:
        with self._database.session() as session:
            ids = session.exec(select(Rollout.id).where(Rollout.project == project)).all()
        return f"{prefix}{max((int(id.removeprefix(prefix)) for id in ids), default=0) + 1}"
