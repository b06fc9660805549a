"""Messages on their way: kept until they have arrived, tried again with longer and longer waits, given up in the end."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlmodel import Field, SQLModel, col, delete, select

from milonga_hub import fencing
from milonga_hub.db import UTC_TIME, Database, utc_now
from milonga_hub.errors import NotFound
from milonga_hub.posting import ChannelFailed

_log = logging.getLogger(__name__)

# The queue is looked at this often without news.
_AGAIN_SECONDS = 60.0
# What has arrived or was given up is kept this long, for its history.
_KEPT = timedelta(days=90)
# The first retry comes after 5 s, later ones after twice the time before, never more than a quarter of an hour.
_FIRST_RETRY_SECONDS = 5.0
_LAST_RETRY_SECONDS = 900.0


class DeliveryState(StrEnum):
    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    GIVEN_UP = "GIVEN_UP"


class DeliveryView(SQLModel):
    """What is shown of any message; tables of them add `body`, and to whom it goes."""

    id: str = Field(primary_key=True)
    event: str
    state: DeliveryState = Field(default=DeliveryState.PENDING, index=True)
    attempts: int = 0
    error: str = ""
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    next_attempt_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    ended_at: datetime | None = Field(default=None, sa_type=UTC_TIME)


D = TypeVar("D", bound=DeliveryView)


def next_attempt(attempts: int, created_at: datetime, give_up_after_seconds: float, now: datetime) -> datetime | None:
    """Return when to try again after so many attempts, None when it is time to give up."""
    wait_seconds = min(_FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 20), _LAST_RETRY_SECONDS)
    then = now + timedelta(seconds=wait_seconds)
    return then if then <= created_at + timedelta(seconds=give_up_after_seconds) else None


class Outbox(ABC, Generic[D]):
    """The queue of messages. It is in the database, so a hub that dies goes on with it."""

    def __init__(self, database: Database, table: type[D], to: Any, clock: Callable[[], datetime] = utc_now) -> None:
        """`to` is the table's column that names whom a message goes to; those of one go in their order."""
        self._database = database
        self._clock = clock
        self._table: Any = table
        self._to = to
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    def _limit_seconds(self, to: str) -> float:
        """Return after how long messages to it are given up. Raises NotFound where it is gone."""

    @abstractmethod
    def _send(self, row: D) -> str:
        """Send one message and return what the other side answered. Raises ChannelFailed."""

    def wake(self) -> None:
        """Let the loop look at the queue now. Safe to call from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._work.set)

    def given_up(self) -> list[D]:
        """Return the messages that never arrived, the newest first."""
        lost = select(self._table).where(self._table.state == DeliveryState.GIVEN_UP)
        with self._database.session() as session:
            return [*session.exec(lost.order_by(col(self._table.created_at).desc()).limit(20))]

    def again(self, *wanted: Any) -> list[D]:
        """Take up what was given up and fits, the oldest first; what fails once more is given up at once.

        Its id and its time stay, so that a receiver knows what it may have taken before.
        """
        lost = select(self._table).where(self._table.state == DeliveryState.GIVEN_UP, *wanted)
        with self._database.session() as session:
            self._database.begin_writing(session)
            rows: list[D] = [*session.exec(lost.order_by(col(self._table.created_at), col(self._table.id)))]
            for row in rows:
                row.state, row.ended_at, row.next_attempt_at = DeliveryState.PENDING, None, self._clock()
                session.add(row)
        self.wake()
        return rows

    async def run(self) -> None:
        """Carry messages for ever. Those to different places do not wait for each other."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._work.clear()
            wait_seconds = _AGAIN_SECONDS
            try:
                await self.deliver()
                await asyncio.to_thread(self.forget_old)
                wait_seconds = await asyncio.to_thread(self._seconds_to_next)
            except Exception:
                # A database that is busy for a moment must not end the hub; the queue stays as it is.
                _log.exception("could not work on messages; trying again")
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._work.wait()
            except TimeoutError:
                continue

    async def deliver(self) -> None:
        """Try everything that is due once."""
        due = await asyncio.to_thread(self._due)
        by_place = [list(rows) for _, rows in groupby(due, key=self._place)]
        await asyncio.gather(*(asyncio.to_thread(self._carry, rows) for rows in by_place))

    def forget_old(self) -> None:
        old = delete(self._table).where(col(self._table.ended_at) < self._clock() - _KEPT)
        with self._database.session() as session:
            session.exec(old)

    def waiting_count(self) -> int:
        waiting = sa.select(sa.func.count()).where(col(self._table.state) == DeliveryState.PENDING)
        with self._database.session() as session:
            return int(session.execute(waiting).scalar_one())

    def _place(self, row: D) -> str:
        return str(getattr(row, self._to.key))

    def _pending(self) -> list[D]:
        waiting = select(self._table).where(self._table.state == DeliveryState.PENDING)
        with self._database.session() as session:
            return [*session.exec(waiting.order_by(self._to, col(self._table.created_at), col(self._table.id)))]

    def _due(self) -> list[D]:
        now = self._clock()
        return [row for row in self._pending() if row.next_attempt_at is None or row.next_attempt_at <= now]

    def _seconds_to_next(self) -> float:
        times = [row.next_attempt_at for row in self._pending() if row.next_attempt_at is not None]
        return min([_AGAIN_SECONDS, *(max(0.05, (then - self._clock()).total_seconds()) for then in times)])

    def _carry(self, rows: Sequence[D]) -> None:
        """Send a place's messages in their order; the first that fails ends it for now."""
        for row in rows:
            try:
                limit_seconds = self._limit_seconds(self._place(row))
            except NotFound:
                self._note(row, 0.0, f"{self._place(row)} was deleted")
                continue
            # Who led once must not send what another has sent since.
            fencing.demand()
            try:
                self._send(row)
            except ChannelFailed as error:
                self._note(row, limit_seconds, str(error))
                return
            self._note(row, limit_seconds, "")

    def _note(self, row: D, limit_seconds: float, error: str) -> None:
        now = self._clock()
        row.attempts += 1
        row.error = error
        row.next_attempt_at = None
        if not error:
            row.state, row.ended_at = DeliveryState.DELIVERED, now
        else:
            row.next_attempt_at = next_attempt(row.attempts, row.created_at, limit_seconds, now)
            if row.next_attempt_at is None:
                row.state, row.ended_at = DeliveryState.GIVEN_UP, now
                _log.error("gave up a message to %s after %d attempts: %s", self._place(row), row.attempts, error)
            else:
                _log.warning("a message to %s failed, attempt %d: %s", self._place(row), row.attempts, error)
        with self._database.session() as session:
            session.merge(row)
