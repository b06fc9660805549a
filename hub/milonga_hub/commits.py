"""One commit for all who want to write at the same time: waiting for the disk is what costs, and they wait together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from sqlmodel import Session

from milonga_hub import fencing, tracing
from milonga_hub.db import Database
from milonga_hub.errors import DatabaseUnreachable

T = TypeVar("T")

# What may hold up others that write: about 50 ms of work.
_AT_ONCE = 200
# How long those that come one after the other are gathered: a commit costs as much processor time as one and a half enrolments. Who
# writes alone does not wait for others.
_GATHER_SECONDS = 0.005

Change = Callable[[Session], T]

_log = logging.getLogger(__name__)


class Commits:
    """Makes changes to the database: `commits.now(change)` alone, `await commits.soon(change)` together with others.

    A change reads and writes through the session that it is given, and nothing else: it may be made in another thread, and
    again where one beside it failed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Waiting[Any]] = []
        self._committing: asyncio.Task[None] | None = None

    def now(self, change: Change[T]) -> T:
        """Return what the change returns, when it is on disk. Whatever it raises undoes it."""
        with self._database.session() as session:
            return change(session)

    async def soon(self, change: Change[T], then: Callable[[T], None] | None = None) -> T:
        """As `now`, in one commit with all changes that come while the one before is written. Changes keep their order.

        It is made, and `then` called on the event loop with what it returned, even where the caller is cancelled meanwhile:
        a stream that breaks cancels who reads it, and others wait for the news.
        """
        waiting = _Waiting(change, then, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._committing is None:
            # What comes together is of many callers: whose fence it would be under is chance.
            with fencing.within(None):
                self._committing = asyncio.create_task(self._commit())
        made: T = await waiting.done
        return made

    async def _commit(self) -> None:
        try:
            while self._waiting:
                if len(self._waiting) > 1:
                    await asyncio.sleep(_GATHER_SECONDS)
                batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                # In a thread: the event loop does not wait for the disk.
                for waiting, outcome in await asyncio.to_thread(self._made, batch):
                    waiting.tell(outcome)
        finally:
            self._committing = None

    def _made(self, batch: Sequence[_Waiting[Any]]) -> list[tuple[_Waiting[Any], Any]]:
        """Return what each change came to; a failure undoes the one that failed alone."""
        try:
            with tracing.span("commit", changes=len(batch)), self._database.session() as session:
                self._database.begin_writing(session)
                # What is new is written at the end, in one statement for all. Where changes meet over it, they fail here
                # and are made one after the other below.
                with session.no_autoflush:
                    outcomes = [(waiting, waiting.change(session)) for waiting in batch]
        except Exception as error:
            if len(batch) == 1 or isinstance(error, DatabaseUnreachable):
                return [(waiting, error) for waiting in batch]
            half = len(batch) // 2
            return [*self._made(batch[:half]), *self._made(batch[half:])]
        return outcomes


class _Waiting(Generic[T]):
    def __init__(self, change: Change[T], then: Callable[[T], None] | None, done: asyncio.Future[T]) -> None:
        self.change = change
        self._then = then
        self.done = done

    def tell(self, outcome: Any) -> None:
        if self._then is not None and not isinstance(outcome, Exception):
            try:
                self._then(outcome)
            except Exception as error:
                # It stays one change's failure: others wait behind this one.
                _log.exception("what follows a change failed")
                outcome = error
        if self.done.done():
            return  # Nobody waits any more.
        if isinstance(outcome, Exception):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)
