"""The database: one engine, short sessions, and column types for what SQL has no word for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import ColumnDefault, event, inspect, text
from sqlalchemy.pool import QueuePool
from sqlmodel import Session, SQLModel, create_engine

# Columns that older versions made and that would refuse rows of this one: table, column.
_RETIRED = (("device", "secret_hash"), ("device", "enrolment_key_hash"), ("device", "boot_id"))


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
    """All tables behind one URL. Safe to use from several threads; each session belongs to one."""

    def __init__(self, url: str) -> None:
        sqlite = url.startswith("sqlite")
        # Opening SQLite costs as much as ten queries, so that connections are kept: as many as threads use at a time.
        self.engine = create_engine(url, **({"poolclass": QueuePool, "max_overflow": -1} if sqlite else {}))
        self._begin = text("BEGIN IMMEDIATE") if sqlite else None
        if sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)

    def create_tables(self) -> None:
        """Make what is missing. All models must be imported first; app.py does."""
        SQLModel.metadata.create_all(self.engine)
        self._add_columns()
        self._drop_columns()
        self._add_indexes()

    def _add_columns(self) -> None:
        """Add to tables of an older version the columns that came since, filled with their defaults."""
        known = inspect(self.engine)
        for table in SQLModel.metadata.sorted_tables:
            there = {column["name"] for column in known.get_columns(table.name)}
            for column in table.columns:
                if column.name in there:
                    continue
                kind = column.type.compile(self.engine.dialect)
                with self.engine.begin() as connection:
                    connection.execute(text(f'ALTER TABLE "{table.name}" ADD COLUMN "{column.name}" {kind}'))
                    default = column.default
                    if isinstance(default, ColumnDefault) and not default.is_callable:
                        connection.execute(table.update().values({column.name: default.arg}))

    def _drop_columns(self) -> None:
        known = inspect(self.engine)
        for table, column in _RETIRED:
            if known.has_table(table) and column in {each["name"] for each in known.get_columns(table)}:
                with self.engine.begin() as connection:
                    connection.execute(text(f'ALTER TABLE "{table}" DROP COLUMN "{column}"'))

    def _add_indexes(self) -> None:
        """Make the indexes that came since a table was made."""
        for table in SQLModel.metadata.sorted_tables:
            for index in table.indexes:
                index.create(self.engine, checkfirst=True)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Commit at the end of the block, or roll everything back on an error. Objects stay readable afterwards."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def begin_writing(self, session: Session) -> None:
        """Let nobody else write until the session ends, so that what it reads still holds when it writes."""
        if self._begin is not None:
            session.connection().execute(self._begin)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: what was acknowledged survives a power cut, at no cost where writes come in batches.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=10000")
    # 32 MB a connection, where that much is read: the upper levels of a table of ten million rows. In 2 MB each look reads them anew.
    cursor.execute("PRAGMA cache_size=-32000")
    cursor.close()
