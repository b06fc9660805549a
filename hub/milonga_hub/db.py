"""The database: one engine, short sessions, and column types for what SQL has no word for."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import URL, Connection, Engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.pool import QueuePool
from sqlmodel import Session, SQLModel, create_engine

from milonga_hub import postgres
from milonga_hub.errors import DatabaseUnreachable, FailedPrecondition, InvalidInput

# How long who writes waits for others, on SQLite.
_WAITS_SECONDS = 10.0
_URLS = "write postgresql://USER:PASSWORD@HOST/DATABASE, or leave it out for SQLite in the data folder"
# SQLite's own INTEGER has 64 bits, and only that numbers its rows by itself.
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Twice what the longest has today.
_WORD_LENGTH = 64


class _Json(sa.types.TypeDecorator[Any]):
    impl = sa.Text
    cache_ok = True

    def __init__(self, type_: Any) -> None:
        super().__init__()
        self.type_ = type_
        self._read: Callable[[str], Any] | None = None

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else _adapter(self.type_).dump_json(value).decode()

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        if value is None:
            return None
        if self._read is None:
            # Looked up once a column: a fleet's labels are read by the ten thousand.
            self._read = _adapter(self.type_).validator.validate_json
        return self._read(value)


@cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    """Once a type, and when it is first needed: each takes longer to make than a row to read."""
    return TypeAdapter(type_)


class _Utc(sa.types.TypeDecorator[datetime]):
    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("datetimes are stored with their time zone; use datetime.now(UTC)")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def json_of(type_: Any) -> Any:
    """Return a column type that stores any pydantic-typed value as JSON text. Assign new values; do not mutate."""
    return _Json(type_)


# For `Field(sa_type=UTC_TIME)`: stored without, returned with the time zone UTC.
UTC_TIME: Any = _Utc


def utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """All tables behind one URL. Safe to use from several threads; each session belongs to one.

    Raises InvalidInput for a URL that is none of SQLite or PostgreSQL, FailedPrecondition without PostgreSQL's driver.
    """

    def __init__(self, url: str) -> None:
        parsed = parsed_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        try:
            # Opening SQLite costs as much as ten queries, so that connections are kept: as many as threads use at a time.
            self.engine = create_engine(
                parsed, **({"poolclass": QueuePool, "max_overflow": -1} if sqlite else postgres.ENGINE)
            )
        except ModuleNotFoundError as error:
            raise FailedPrecondition(postgres.MISSING) from error
        self._begin = text("BEGIN IMMEDIATE") if sqlite else None
        self._held: Connection | None = None
        # Of the driver too: what is asked before a statement comes past SQLAlchemy. SQLite's file is always there.
        driver = self.engine.dialect.dbapi
        self._away: tuple[type[Exception], ...] = (
            () if sqlite or driver is None else (OperationalError, InterfaceError, NoneFree, driver.OperationalError)
        )
        if sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
        else:
            postgres.prepare(self.engine)

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def create_tables(self) -> None:
        """Make the tables, or bring those of an earlier version up to date.

        Raises FailedPrecondition for a database that cannot be reached, or that a newer version of the hub wrote.
        """
        # Here, because only who starts a hub needs it.
        from milonga_hub.migrations.running import upgrade

        upgrade(self.engine)

    def hold(self) -> None:
        """Let no hub use the database until close().

        SQLite's lies in the data folder, which a hub holds. Raises FailedPrecondition where another has it, or nobody answers.
        """
        if self.is_postgresql and self._held is None:
            self._held = postgres.hold(self.engine)

    def close(self) -> None:
        """Let go of what hold() holds."""
        if self._held is not None:
            # To no pool: what it holds belongs to it.
            self._held.invalidate()
            self._held.close()
            self._held = None
        if self.is_postgresql:
            self.engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Commit at the end of the block, or roll everything back on an error. Objects stay readable afterwards.

        Raises InvalidInput for a value that the database cannot hold, such as a text with a NUL in PostgreSQL, and
        DatabaseUnreachable where PostgreSQL is away, or too many write.
        """
        try:
            with Session(self.engine, expire_on_commit=False) as session:
                yield session
                session.commit()
        except DataError as error:
            raise InvalidInput(f"the database cannot hold a value: {error.orig}") from error
        except self._away as error:
            raise unreachable(error) from error
        except DBAPIError as error:
            if not self.is_postgresql or not error.connection_invalidated:
                raise
            raise unreachable(error) from error

    def turn(self, name: str, seconds: float = 8.0) -> Turn:
        """Return what one at a time of all hubs has within a `with` block, under this name, for so many seconds at most:
        a process that was stopped must not hold up the others for ever."""
        return Turn(self, name, seconds)

    def take_turn(self, name: str, seconds: float) -> Connection:
        """Return a connection that has the turn until it is closed."""
        try:
            connection = self.engine.connect()
            try:
                postgres.take_turn(connection, name, seconds)
            except BaseException:
                connection.close()
                raise
        except self._away as error:
            raise unreachable(error) from error
        return connection

    def begin_writing(self, session: Session) -> None:
        """Let nobody else write until the session ends, so that what it reads still holds when it writes."""
        if self._begin is not None:
            session.connection().execute(self._begin)
        else:
            postgres.begin_writing(session.connection())


class Turn:
    """Of all hubs on the database one thread at a time, within `with`; the same one may come in again.

    For what is read, decided and written in several transactions. Raises DatabaseUnreachable.
    """

    def __init__(self, database: Database, name: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._seconds = seconds
        self._lock = threading.RLock()
        self._depth = 0
        self._held: Connection | None = None

    def __enter__(self) -> Turn:
        self._lock.acquire()
        try:
            if self._depth == 0 and self._database.is_postgresql:
                self._held = self._database.take_turn(self._name, self._seconds)
        except BaseException:
            self._lock.release()
            raise
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        held = None
        if self._depth == 0:
            held, self._held = self._held, None
        self._lock.release()
        if held is not None:
            held.close()


def connected(engine: Engine) -> Connection:
    """Return a connection. Raises postgres.Unreachable with the reason where there is none to be had."""
    if engine.dialect.name != "sqlite":
        return postgres.connected(engine)
    try:
        return engine.connect()
    except OperationalError as error:
        raise postgres.Unreachable(
            f"cannot use the database {engine.url.database}: {error.orig}; see to its folder, its disk, and what else uses it"
        ) from error


def unreachable(error: Exception) -> DatabaseUnreachable:
    reason = " ".join(str(getattr(error, "orig", error)).split())
    return DatabaseUnreachable(f"the database does not answer ({reason}); try again in some seconds")


def parsed_url(url: str) -> URL:
    """Return the URL with the driver that the hub uses. Raises InvalidInput."""
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    except ArgumentError as error:
        raise InvalidInput(f"the database's URL cannot be read; {_URLS}") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidInput(f"a hub keeps its tables in SQLite or PostgreSQL, not {parsed.get_backend_name()}; {_URLS}")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


@event.listens_for(sa.Column, "before_parent_attach")
def _as_everywhere(column: sa.Column[Any], table: Any) -> None:
    """Let a column hold in every database what it holds in SQLite: whole numbers of 64 bits, and words that enums get later."""
    if getattr(table, "metadata", None) is not SQLModel.metadata:
        return
    if isinstance(column.type, sa.Enum):
        column.type.native_enum, column.type.length = False, _WORD_LENGTH
    elif type(column.type) is sa.Integer:
        column.type = _WHOLE


def _prepare_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={1000 * _WAITS_SECONDS:.0f}")
    _log_ahead(cursor)
    # FULL: what was acknowledged survives a power cut, at no cost where writes come in batches.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # 32 MB a connection, where that much is read: the upper levels of a table of ten million rows. In 2 MB each look reads them anew.
    cursor.execute("PRAGMA cache_size=-32000")
    cursor.close()


def _log_ahead(cursor: Any) -> None:
    """Let the file have a write-ahead log. Of all that SQLite does this alone does not wait: two who begin a new file are in each
    other's way, and one of them is told at once that it is locked."""
    ends = time.monotonic() + _WAITS_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
            time.sleep(0.01)
