"""All rows of a hub from one database to another, as they are: SQLite's to PostgreSQL's, and the other way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError

from milonga_hub import postgres
from milonga_hub.db import Database
from milonga_hub.errors import AlreadyExists, FailedPrecondition, InvalidInput
from milonga_hub.migrations import running
from milonga_hub.telemetry.models import TelemetryTotal, TelemetryWindowRow

_ROWS = 2000
_VERSION = "alembic_version"
# Histograms and the like were text once.
_OF_TELEMETRY = {
    each.__tablename__: each.metadata.tables[each.__tablename__] for each in (TelemetryWindowRow, TelemetryTotal)
}


def export(database: Database, path: Path) -> None:
    """Write the tables of a server to a new SQLite file, as they are at one moment, while others write."""
    with postgres.connected(database.engine) as connection:
        source = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        revision = postgres.revision(source)
        if revision is None:
            raise FailedPrecondition("there is no hub in the database; start one there first: milonga up")
        target = Database(f"sqlite:///{path}")
        running.migrate(target.engine, revision)
        with target.engine.begin() as written:
            _copy(source, written)
        # All of it into the one file.
        target.engine.dispose()


def fill(database: Database, path: Path) -> None:
    """Write the tables of an SQLite file into an empty database of a server, or nothing at all. Raises AlreadyExists, InvalidInput."""
    source = Database(f"sqlite:///{path}")
    # The file may be of an earlier version.
    source.create_tables()
    database.hold()
    try:
        with postgres.connected(database.engine) as connection:
            if postgres.revision(connection) is not None:
                raise AlreadyExists("there is a hub in the database already; name an empty one")
        database.create_tables()
        try:
            with source.engine.connect() as read, database.engine.begin() as written:
                _copy(read, written)
                _go_on_counting(written)
        except DataError as error:
            running.migrate(database.engine, running.BASE)
            raise InvalidInput(f"PostgreSQL cannot hold a value of the backup: {error.orig}") from error
        except BaseException:
            running.migrate(database.engine, running.BASE)
            raise
    finally:
        database.close()
        source.engine.dispose()


def _copy(source: Connection, target: Connection) -> None:
    there, here = sa.MetaData(), sa.MetaData()
    there.reflect(source)
    here.reflect(target)
    for name in sorted({*there.tables} & {*here.tables} - {_VERSION}):
        read, written = there.tables[name], here.tables[name]
        shared = [column.name for column in read.columns if column.name in written.c]
        kinds = {each: kind for each in shared if (kind := _repacked(name, written.c[each]))}
        rows = source.execution_options(stream_results=True).execute(sa.select(*(read.c[each] for each in shared)))
        for part in rows.mappings().partitions(_ROWS):
            target.execute(sa.insert(written), [_row(row, kinds) for row in part])


def _repacked(table: str, column: sa.Column[Any]) -> Callable[[Any], Any] | None:
    """Return what makes bytes of what an earlier version wrote as text, where the column takes bytes alone."""
    if table not in _OF_TELEMETRY or not isinstance(column.type, sa.LargeBinary):
        return None
    type_ = _OF_TELEMETRY[table].c[column.name].type
    assert isinstance(type_, sa.types.TypeDecorator)
    dialect = sqlite.dialect()

    def repack(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return type_.process_bind_param(type_.process_result_value(value, dialect), dialect)

    return repack


def _row(row: Any, kinds: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    found = dict(row)
    for name, repack in kinds.items():
        found[name] = repack(found[name])
    return found


def _go_on_counting(target: Connection) -> None:
    """Let new rows have numbers after those that came with theirs."""
    counted = target.exec_driver_sql(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND column_default LIKE 'nextval(%%'"
    )
    for table, column in counted.all():
        newest = target.execute(sa.select(sa.func.max(sa.column(column))).select_from(sa.table(table))).scalar()
        sequence = sa.func.pg_get_serial_sequence(f'"{table}"', column)
        target.execute(sa.select(sa.func.setval(sequence, newest or 1, newest is not None)))
