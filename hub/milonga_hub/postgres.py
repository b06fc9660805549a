"""What PostgreSQL needs so that a hub on it behaves as on SQLite: one writer at a time, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from milonga_hub.errors import FailedPrecondition

MISSING = "PostgreSQL's driver is not installed; run: pip install 'milonga-hub[postgres]'"
# More than the threads that use the database at a time; a server takes 100 by default. A connection that a restart of the
# server broke is replaced before it is used.
ENGINE: dict[str, Any] = {
    "pool_size": 10,
    "max_overflow": 30,
    "pool_pre_ping": True,
    "connect_args": {"connect_timeout": 10},
}

# Numbers of advisory locks, any that nobody else takes: who writes, who changes the tables, which hub this is.
_WRITER, MIGRATION, HUB = 0x6D696C6F01, 0x6D696C6F02, 0x6D696C6F03
# As long as SQLite's busy_timeout.
LOCK_SECONDS = 10
_TAKE = "SELECT pg_advisory_xact_lock(%s)"


def prepare(engine: Engine) -> None:
    """Let who writes first wait for the one who writes, as SQLite does: services decide by what they have read.

    Without that, two threads could each read a row and write over what the other made of it, and two that write the same
    rows in a different order would wait for each other.
    """
    event.listen(engine, "connect", _limit_waiting)
    event.listen(engine, "before_cursor_execute", _write_alone)


class Unreachable(FailedPrecondition):
    """The server does not answer, or does not let this hub in."""


def is_held(connection: Connection) -> bool:
    """Return whether the server still knows the connection that holds the database."""
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError:
        connection.invalidate()
        return False
    return True


def hold(engine: Engine) -> Connection:
    """Return the connection by which this process is the only hub of the database, until it is closed or the process ends."""
    connection = connected(engine).execution_options(isolation_level="AUTOCOMMIT")
    # Of a hub whose machine lost its power, the server hears nothing: it lets go after a minute.
    for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
        connection.exec_driver_sql(f"SET tcp_keepalives_{name} = {value}")
    try:
        connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (HUB,))
    except OperationalError as error:
        connection.close()
        raise FailedPrecondition(
            f"another hub is using the database {_place(engine)}; stop it, or name another with --database-url"
        ) from error
    return connection


def connected(engine: Engine) -> Connection:
    """Return a connection. Raises Unreachable with the server's reason where there is none to be had."""
    try:
        return engine.connect()
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        if engine.dialect.name == "sqlite":
            raise Unreachable(
                f"cannot use the database {engine.url.database}: {reason}; see to its folder, its disk, and what else uses it"
            ) from error
        raise Unreachable(
            f"cannot use the database {_place(engine)}: {reason}; see to the server, or mend MILONGA_DATABASE_URL"
        ) from error


@dataclass(frozen=True)
class Told:
    """What a server says of a database."""

    server: str
    size_bytes: int
    # None where no hub was here.
    revision: str | None


def asked(engine: Engine) -> Told:
    """Ask the server about the database, and change nothing. Raises FailedPrecondition where it does not answer."""
    with connected(engine) as connection:
        version, size = connection.exec_driver_sql(
            "SELECT current_setting('server_version'), pg_database_size(current_database())"
        ).one()
        return Told(f"PostgreSQL {version}", int(size), revision(connection))


def revision(connection: Connection) -> str | None:
    """Return the revision of the tables, None where no hub was here."""
    there = connection.exec_driver_sql("SELECT to_regclass('alembic_version') IS NOT NULL").scalar()
    found: str | None = (
        connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if there else None
    )
    return found


def _place(engine: Engine) -> str:
    """Return which database it is, without the password."""
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=True)


def begin_writing(connection: Connection) -> None:
    """Wait until nobody else writes; others wait until the transaction ends."""
    connection.exec_driver_sql(_TAKE, (_WRITER,))
    connection.info["writes_in"] = connection.get_transaction()


def _limit_waiting(connection: Any, record: Any) -> None:
    connection.autocommit = True
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.autocommit = False


def _write_alone(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    writes = context is not None and (context.isinsert or context.isupdate or context.isdelete)
    if writes and connection.info.get("writes_in") is not connection.get_transaction():
        cursor.execute(_TAKE, (_WRITER,))
        connection.info["writes_in"] = connection.get_transaction()
