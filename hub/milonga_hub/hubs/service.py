"""This hub among those of its database: it says that it is there, hears who else is, and leads while it has the lease."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from milonga_hub import fencing, postgres
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition
from milonga_hub.fencing import Fence
from milonga_hub.hubs import rules
from milonga_hub.hubs.models import HubMember, HubState, HubView, Lease

_log = logging.getLogger(__name__)

# A server that takes longer for one of these small statements gives no lead to anybody.
_SECONDS = 5
_MEMBERS: sa.Table = SQLModel.metadata.tables["hub_member"]
_LEASES: sa.Table = SQLModel.metadata.tables["lease"]
_LEAD = "lead"
# As columns have it: UTC without a zone.
_NOW = sa.text("clock_timestamp() AT TIME ZONE 'UTC'")

Lead = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Standing:
    """A hub, and how it is."""

    hub: HubView
    state: HubState
    is_this: bool
    # None for who does not lead, or where that is not known.
    leads_since: datetime | None = None


class Hubs(Protocol):
    """What a hub needs of those on its database, itself among them."""

    #: Of this hub; "" where there can be no other.
    id: str
    #: What people have to know of the tables, "" for nothing.
    notice: str

    @property
    def leads(self) -> bool: ...

    @property
    def fence(self) -> Fence | None:
        """Return that of the present term; None where this hub does not lead, or there can be no other."""

    def alive(self) -> Collection[str]:
        """Return the ids of the hubs that are there."""

    def standings(self) -> list[Standing]:
        """Return all hubs, this one among them. Raises DatabaseUnreachable."""

    def enter(self, *, folder: str, broker: str) -> None:
        """Be there from now on. Raises FailedPrecondition where others are there beside which it cannot be."""

    def listens_at(self, http: str, grpc: str, device: str) -> None: ...

    async def run(self, lead: Lead) -> None:
        """Do `lead` while this hub leads, until cancelled."""

    def leave(self) -> None:
        """Be there no more, and let another lead at once. May be called again."""


class Alone:
    """The one hub of an SQLite file."""

    id: str = ""
    notice: str = ""
    leads: bool = True
    fence: Fence | None = None

    def __init__(self) -> None:
        self._me = HubView(**_about("", utc_now()))

    def alive(self) -> Collection[str]:
        return {self.id}

    def standings(self) -> list[Standing]:
        me = self._me.model_copy(update={"seen_at": utc_now()})
        return [Standing(me, HubState.LEADING, True, me.started_at)]

    def enter(self, *, folder: str, broker: str) -> None:
        self._me.started_at = utc_now()

    def listens_at(self, http: str, grpc: str, device: str) -> None:
        self._me.http, self._me.grpc, self._me.device = http, grpc, device

    async def run(self, lead: Lead) -> None:
        await lead()

    def leave(self) -> None:
        pass


class Membership:
    """One of the hubs on a PostgreSQL.

    The lease has a number that grows with each change of hands; what is written for the lead is checked against it: see
    fencing.py. All times are the server's, but for the one at which this hub stops by itself when the server is away.
    """

    def __init__(self, database: Database) -> None:
        from milonga_hub import silence
        from milonga_hub.migrations.running import newest

        self.id = uuid.uuid4().hex
        self.notice = ""
        # Calls whoever shall look at once; set by what carries news.
        self.tell_others: Callable[[], None] = lambda: None
        self._database = database
        self._engine = create_engine(
            database.engine.url,
            poolclass=NullPool,
            connect_args={
                **postgres.CONNECTION,
                "tcp_user_timeout": 1000 * _SECONDS,
                "options": f"-c statement_timeout={1000 * 2 * postgres.LOCK_SECONDS}",
            },
        )
        silence.watch(self._engine)
        self._me = HubMember(**_about(self.id, utc_now()), revision=newest())
        self._fence: Fence | None = None
        self._ends_at = 0.0
        self._alive: Collection[str] = {self.id}
        # Its own: the others of the process may all be waiting for the database.
        self._thread = ThreadPoolExecutor(1, "hubs")
        self._look = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left = False
        self._connection: Connection | None = postgres.hold_with_others(self._engine, self.id)

    @property
    def leads(self) -> bool:
        return self._fence is not None and self._fence.lasts()

    @property
    def fence(self) -> Fence | None:
        return self._fence

    def alive(self) -> Collection[str]:
        return self._alive

    def standings(self) -> list[Standing]:
        with self._database.session() as session:
            now = session.connection().execute(sa.select(_NOW)).scalar_one()
            lease = session.get(Lease, _LEAD)
            members = [*session.scalars(sa.select(HubMember).order_by(_MEMBERS.c.started_at))]
        now = _aware(now)
        leader, since = (lease.holder, lease.taken_at) if lease is not None and lease.expires_at > now else ("", None)
        return [
            Standing(each, rules.state_of(each, leader, now), each.id == self.id, since if each.id == leader else None)
            for each in members
        ]

    def enter(self, *, folder: str, broker: str) -> None:
        self._me.folder, self._me.broker = folder, broker
        ends = time.monotonic() + postgres.LOCK_SECONDS
        while why := self._entered():
            if time.monotonic() > ends:
                place = postgres.place(self._engine)
                raise FailedPrecondition(f"cannot use the database {place}: {why}; or name another with --database-url")
            time.sleep(0.2)

    def _entered(self) -> str:
        """Return why this hub cannot be there, "" once it is."""
        assert self._connection is not None
        turn = (postgres.TURN, "hubs")
        self._connection.exec_driver_sql("SELECT pg_advisory_lock(%s, hashtext(%s))", turn)
        try:
            members, now = self._members(self._connection)
            there = [
                each
                for each in members
                if each.id != self.id and rules.is_there(each, now) and postgres.is_there(self._connection, each.id)
            ]
            why = rules.why_not_beside(self._me, there)
            if not why:
                self._beat()
        finally:
            self._connection.exec_driver_sql("SELECT pg_advisory_unlock(%s, hashtext(%s))", turn)
        return why

    def listens_at(self, http: str, grpc: str, device: str) -> None:
        self._me.http, self._me.grpc, self._me.device = http, grpc, device
        self.look()

    def look(self) -> None:
        """Look now at who is there: somebody came or went. Safe to call from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._look.set)

    async def run(self, lead: Lead) -> None:
        self._loop = asyncio.get_running_loop()
        leading: asyncio.Task[None] | None = None
        led: Fence | None = None
        try:
            while True:
                self._look.clear()
                beat = self._loop.run_in_executor(self._thread, self._beat)
                # One that nobody waits for any more, since this hub ends, may fail.
                beat.add_done_callback(_looked_at)
                # A server that says nothing for longer than the lease lasts is no reason to lead on.
                await asyncio.wait([beat], timeout=self._seconds_left() if leading else None)
                if not self.leads and leading is not None:
                    await self._stepped_down(leading)
                    leading = None
                await self._heard(beat)
                if leading is not None and leading.done():
                    leading.result()
                    leading = None
                if leading is not None and self._fence is not led:
                    # Lost to another and taken again since the last look: what runs is of the term before.
                    await self._stepped_down(leading)
                    leading = None
                if leading is None and self.leads:
                    led = self._fence
                    _log.info("this hub leads (term %d)", self._fence.number if self._fence else 0)
                    leading = self._begun(lead)
                elif leading is not None and not self.leads:
                    await self._stepped_down(leading)
                    leading = None
                try:
                    left = self._seconds_left() if self.leads else None
                    async with asyncio.timeout(min(rules.BEAT_SECONDS, left or rules.BEAT_SECONDS)):
                        await self._look.wait()
                except TimeoutError:
                    continue
        finally:
            if leading is not None:
                await _ended(leading)

    def leave(self) -> None:
        if self._left:
            return
        self._left = True
        # What it does just now uses the connection.
        self._thread.shutdown()
        self._fence = None
        try:
            if self._connection is not None:
                mine = (_LEASES.c.name == _LEAD) & (_LEASES.c.holder == self.id)
                self._connection.execute(sa.update(_LEASES).where(mine).values(holder="", expires_at=_NOW))
                self._connection.execute(sa.delete(_MEMBERS).where(_MEMBERS.c.id == self.id))
                self.tell_others()
        except DBAPIError as error:
            _log.warning("the others learn by themselves that this hub is gone: %s", error.orig)
        finally:
            self._drop_connection()
            self._engine.dispose()

    def _begun(self, lead: Lead) -> asyncio.Task[None]:
        async def term() -> None:
            await lead()

        with fencing.within(self._fence):
            return asyncio.create_task(term(), name="lead")

    async def _stepped_down(self, leading: asyncio.Task[None]) -> None:
        _log.warning("this hub leads no more; what it did for all goes on at another, or when it leads again")
        await _ended(leading)

    async def _heard(self, beat: asyncio.Future[None]) -> None:
        try:
            await beat
        except DBAPIError as error:
            _log.warning("the database does not answer (%s); trying again", " ".join(str(error.orig).split()))
            await asyncio.to_thread(self._drop_connection)
        except postgres.Unreachable as error:
            _log.warning("%s; trying again", error)

    def _seconds_left(self) -> float | None:
        return None if self._fence is None else max(0.05, self._ends_at - time.monotonic())

    # In a thread of its own.

    def _beat(self) -> None:
        """Say that this hub is there, hear who else is, and keep or take the lead where that can be."""
        if self._left:
            return
        connection = self._connection = self._connection or postgres.hold_with_others(self._engine, self.id)
        asked_at = time.monotonic()
        values = {**self._me.model_dump(exclude={"seen_at"}), "started_at": self._me.started_at}
        insert = sa.dialects.postgresql.insert(_MEMBERS).values(**values, seen_at=_NOW)
        told = {"seen_at": _NOW, **{name: values[name] for name in ("http", "grpc", "device")}}
        connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=told))
        members, now = self._members(connection)
        self._alive = {
            each.id
            for each in members
            if each.id == self.id or (rules.is_there(each, now) and postgres.is_there(connection, each.id))
        }
        tables = postgres.revision(connection) or ""
        knows = self._knows(tables, [each for each in members if each.id in self._alive])
        if self._fence is not None:
            self._keep(connection, asked_at, knows=knows)
        if self._fence is None and knows:
            self._take(connection, now)
        if self._fence is not None:
            gone = _MEMBERS.c.seen_at < sa.bindparam("before", now - rules.REMEMBERED)
            connection.execute(sa.delete(_MEMBERS).where(gone))

    def _knows(self, tables: str, there: Sequence[HubMember]) -> bool:
        """Return whether this hub may lead: it knows the tables, or nobody does who is there."""
        knows = tables == self._me.revision
        if not knows and not self.notice:
            self.notice = (
                f"the tables are at revision {tables}, which this version does not know: a newer one changed them. This hub"
                " goes on, for a newer version only adds, and leads no more where a newer one is there; replace it"
            )
            _log.warning("%s", self.notice)
        return knows or not any(each.revision == tables for each in there)

    def _keep(self, connection: Connection, asked_at: float, *, knows: bool) -> None:
        assert self._fence is not None
        mine = (_LEASES.c.name == _LEAD) & (_LEASES.c.holder == self.id) & (_LEASES.c.number == self._fence.number)
        if knows:
            kept = connection.execute(sa.update(_LEASES).where(mine).values(expires_at=_later()))
            if kept.rowcount:
                self._ends_at = asked_at + rules.LEASE.total_seconds()
                return
        else:
            connection.execute(sa.update(_LEASES).where(mine).values(holder="", expires_at=_NOW))
        self._fence = None

    def _take(self, connection: Connection, now: datetime) -> None:
        first = sa.dialects.postgresql.insert(_LEASES).values(name=_LEAD, holder="", number=0, expires_at=_NOW)
        connection.execute(first.on_conflict_do_nothing())
        lease = connection.execute(sa.select(_LEASES).where(_LEASES.c.name == _LEAD)).one()
        alive = bool(lease.holder) and lease.holder != self.id and postgres.is_there(connection, lease.holder)
        held = rules.Held(lease.holder, lease.expires_at, alive)
        if not rules.may_take(held, self.id, now, knows_tables=True):
            return
        asked_at = time.monotonic()
        connection.exec_driver_sql("BEGIN")
        try:
            # Whatever is being written for the lead ends first, and what comes later finds the new number.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (postgres.WRITER,))
            unchanged = (_LEASES.c.name == _LEAD) & (_LEASES.c.number == lease.number)
            unchanged &= _LEASES.c.holder == lease.holder
            values = {"holder": self.id, "number": lease.number + 1, "expires_at": _later(), "taken_at": _NOW}
            taken = connection.execute(sa.update(_LEASES).where(unchanged).values(**values)).rowcount
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        if taken:
            self._ends_at = asked_at + rules.LEASE.total_seconds()
            self._fence = Fence(lease.number + 1, partial(self._lasts, lease.number + 1))

    def _lasts(self, number: int) -> bool:
        fence = self._fence
        return fence is not None and fence.number == number and time.monotonic() < self._ends_at

    def _members(self, connection: Connection) -> tuple[list[HubMember], datetime]:
        now = _aware(connection.execute(sa.select(_NOW)).scalar_one())
        rows = connection.execute(sa.select(_MEMBERS).order_by(_MEMBERS.c.started_at)).mappings()
        return [HubMember(**row) for row in rows], now

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


def of(database: Database) -> Hubs:
    """Return the hubs of the database; of SQLite's there is one. Raises FailedPrecondition where somebody has it alone."""
    return Membership(database) if database.is_postgresql else Alone()


def _about(id_: str, started_at: datetime) -> dict[str, Any]:
    return {"id": id_, "name": socket.gethostname(), "version": version("milonga-hub"), "started_at": started_at}


def _later() -> Any:
    return sa.text(f"clock_timestamp() AT TIME ZONE 'UTC' + interval '{rules.LEASE.total_seconds():g} seconds'")


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=utc_now().tzinfo)


def _looked_at(beat: asyncio.Future[None]) -> None:
    if not beat.cancelled():
        beat.exception()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
