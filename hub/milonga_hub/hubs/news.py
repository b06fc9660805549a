"""What hubs of one database tell each other at once, by PostgreSQL's NOTIFY.

A notice names rows that changed; who is interested reads them. So news are small, and never older than what the database has.
One that is lost matters until the connection is back: then whoever asked to is told that some may be missing.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlmodel import Session, SQLModel

from milonga_hub import postgres
from milonga_hub.db import Database
from milonga_hub.errors import MilongaError
from milonga_hub.events import Event, EventBus

_log = logging.getLogger(__name__)

_CHANNEL = "milonga_hubs"
# PostgreSQL takes less than 8,000 bytes.
_MOST_BYTES = 7500
# How soon who listens sees that it shall end, and how long after a loss it tries again.
_LISTEN_SECONDS = 1.0
# So many rows are read by one statement.
_ROWS = 500

#: Topic, table and primary key of a row; no table where there is nothing to read.
_Named = tuple[str, str, Any]


class News:
    """Passes on what this hub publishes, and lets its listeners hear what others do."""

    def __init__(self, database: Database, events: EventBus, hub: str, has_others: Callable[[], bool]) -> None:
        self._database = database
        self._events = events
        self._hub = hub
        self._has_others = has_others
        self._waiting: dict[str, _Named] = {}
        self._wake = threading.Condition()
        self._ended = False
        self._threads: list[threading.Thread] = []
        # Called in a thread of its own: what others changed, by table; somebody came or went; some news may be missing.
        self.on_rows: Callable[[str, Sequence[Any]], None] = lambda table, rows: None
        self.on_gone: Callable[[str, Sequence[Any]], None] = lambda table, keys: None
        self.on_calls: dict[str, Callable[[str], None]] = {}
        self.on_gap: Callable[[], None] = lambda: None
        # Tables whose rows `on_rows` takes, though nobody else may listen.
        self.wanted: frozenset[str] = frozenset()

    def start(self) -> None:
        self._events.pass_on = self.pass_on
        for work in (self._send, self._listen):
            thread = threading.Thread(target=work, name=f"news{work.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Send what waits and end; nothing is heard any more."""
        self._events.pass_on = lambda events: None
        with self._wake:
            self._ended = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(5 * _LISTEN_SECONDS)

    def pass_on(self, events: Sequence[Event]) -> None:
        """Let the other hubs hear it too. Safe to call from any thread."""
        # Whoever comes next reads everything first.
        named = [one for event in events if (one := _named(event)) is not None] if self._has_others() else []
        if named:
            with self._wake:
                self._waiting |= {one[0]: one for one in named}
                self._wake.notify_all()

    def call(self, hub: str, what: str) -> None:
        """Call another hub, or with "" all of them, for something that has no row of its own."""
        with self._database.session() as session:
            announce_call(session, hub, what)

    # Sending

    def _send(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._ended:
                    self._wake.wait()
                if self._ended and not self._waiting:
                    return
                waiting, self._waiting = self._waiting, {}
            try:
                with self._database.session() as session:
                    for text in _parts(self._hub, waiting.values()):
                        _notify(session, text)
            except MilongaError as error:
                with self._wake:
                    # Newer ones of the same topics have taken their places.
                    self._waiting = {**waiting, **self._waiting}
                    if self._ended:
                        return
                    self._wake.wait(_LISTEN_SECONDS)
                _log.debug("could not tell the other hubs yet: %s", error)

    # Hearing

    def _listen(self) -> None:
        engine = create_engine(self._database.engine.url, poolclass=NullPool, connect_args=postgres.CONNECTION)
        # What waits for notices comes past SQLAlchemy.
        driver: Any = engine.dialect.dbapi
        errors: tuple[type[Exception], ...] = (MilongaError, DBAPIError, driver.Error)
        while not self._ended:
            try:
                with postgres.connected(engine) as connection:
                    self._hear_all(connection)
            except errors as error:
                _log.debug("hears nothing of the other hubs: %s", error)
                with self._wake:
                    if not self._ended:
                        self._wake.wait(_LISTEN_SECONDS)
        engine.dispose()

    def _hear_all(self, connection: Connection) -> None:
        listening = connection.execution_options(isolation_level="AUTOCOMMIT")
        listening.exec_driver_sql(f"LISTEN {_CHANNEL}")
        # From here on nothing is missed.
        self._guarded(self.on_gap)
        driver: Any = listening.connection.driver_connection
        while not self._ended:
            told = [each.payload for each in driver.notifies(timeout=_LISTEN_SECONDS, stop_after=1)]
            told += [each.payload for each in driver.notifies(timeout=0)]
            if told:
                self._guarded(partial(self._take, told))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            # The next ones are heard all the same.
            _log.exception("could not take news of another hub")

    def _take(self, told: Iterable[str]) -> None:
        named: dict[str, _Named] = {}
        for text in told:
            news = json.loads(text)
            if news["from"] == self._hub:
                continue
            if "call" in news:
                if news["to"] in ("", self._hub):
                    kind, _, rest = news["call"].partition(" ")
                    (self.on_calls.get(kind) or _nothing)(rest)
                continue
            named |= {topic: (topic, table, key) for topic, table, key in news["rows"]}
        wanted = [one for one in named.values() if one[1] in self.wanted or self._events.is_heard(one[0])]
        if wanted:
            self._tell(wanted)

    def _tell(self, wanted: Sequence[_Named]) -> None:
        events = [Event(topic, None) for topic, table, _ in wanted if not table]
        by_table: defaultdict[str, list[_Named]] = defaultdict(list)
        for one in wanted:
            if one[1] in _tables():
                by_table[one[1]].append(one)
        for table, those in by_table.items():
            with self._database.session() as session:
                rows = [*_rows(session, _tables()[table], those)]
            if table in self.wanted:
                self.on_rows(table, [row for _, row in rows])
                there = {one[2] for one, _ in rows}
                self.on_gone(table, [one[2] for one in those if one[2] not in there])
            events += [Event(one[0], row) for one, row in rows]
        self._events.hear(events)


def _nothing(rest: str) -> None:
    """A newer hub calls for what this one does not know."""


def announce_rows(session: Session, hub: str, rows: Sequence[tuple[str, str, Any]]) -> None:
    """Tell the other hubs of rows (topic, table, key) when the session commits, and not at all where it does not."""
    if session.get_bind().dialect.name == "postgresql":
        for text in _parts(hub, rows):
            _notify(session, text)


def announce_call(session: Session, hub: str, what: str) -> None:
    """Call a hub, or with "" all of them, when the session commits."""
    _notify(session, json.dumps({"from": "", "to": hub, "call": what}))


def _notify(session: Session, text: str) -> None:
    session.connection().execute(sa.select(sa.func.pg_notify(_CHANNEL, text)))


def _named(event: Event) -> _Named | None:
    """Return how others find what the event is about, None where they cannot."""
    payload = event.payload
    # Who watches a device's telemetry reads it from the table.
    if payload is None or event.topic.startswith("telemetry/"):
        return event.topic, "", None
    table = getattr(type(payload), "__tablename__", "")
    if table not in _tables():
        return None
    key = [getattr(payload, column.key) for column in sa.inspect(type(payload)).primary_key]
    return (event.topic, table, key[0]) if len(key) == 1 and isinstance(key[0], str | int) else None


def _parts(hub: str, rows: Iterable[_Named]) -> Iterator[str]:
    """Yield as many notices as it takes."""
    part: list[_Named] = []
    size = 0
    for row in rows:
        bytes_ = len(json.dumps(row)) + 2
        if part and size + bytes_ > _MOST_BYTES - len(hub) - 40:
            yield json.dumps({"from": hub, "rows": part})
            part, size = [], 0
        part.append(row)
        size += bytes_
    if part:
        yield json.dumps({"from": hub, "rows": part})


def _rows(session: Session, model: Any, named: Sequence[_Named]) -> Iterator[tuple[_Named, Any]]:
    """Yield those that are there still, with their rows."""
    (key,) = sa.inspect(model).primary_key
    for start in range(0, len(named), _ROWS):
        part = named[start : start + _ROWS]
        found = session.scalars(sa.select(model).where(key.in_([one[2] for one in part])))
        by_key = {getattr(row, key.key): row for row in found}
        yield from ((one, by_key[one[2]]) for one in part if one[2] in by_key)


@cache
def _tables() -> dict[str, Any]:
    """Return all models by the names of their tables; those whose rows have one key are told of."""
    return {mapper.class_.__tablename__: mapper.class_ for mapper in SQLModel._sa_registry.mappers}
