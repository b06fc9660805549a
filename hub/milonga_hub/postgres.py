"""What PostgreSQL needs so that a hub on it behaves as on SQLite: one writer at a time, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from milonga_hub import fencing
from milonga_hub.errors import FailedPrecondition

MISSING = "PostgreSQL's driver is not installed; run: pip install 'milonga-hub[postgres]'"
CONNECT_SECONDS = 5
# Of a server whose machine lost its power, or to which a firewall forgot the way, nothing is heard: the system lets go after half a
# minute, in place of two hours.
CONNECTION: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
# More than the threads that use the database at a time; a server takes 100 by default. A connection that a restart of the
# server broke is replaced before it is used.
ENGINE: dict[str, Any] = {
    "pool_size": 10,
    "max_overflow": 30,
    "pool_timeout": 10.0,
    "pool_pre_ping": True,
    "connect_args": CONNECTION,
}

# Numbers of advisory locks, any that nobody else takes: who writes, who changes the tables, which hub this is.
WRITER, MIGRATION, HUB = 0x6D696C6F01, 0x6D696C6F02, 0x6D696C6F03
# Of two numbers: which hub this is, and whose turn it is. The second number is that of a name.
MEMBER, TURN = 0x6D6C01, 0x6D6C02
# As long as SQLite's busy_timeout.
LOCK_SECONDS = 10
# A process that was stopped within a transaction would hold up all others: the server ends it before they have given up.
_IDLE_SECONDS = LOCK_SECONDS - 2
_TAKE = f"SELECT pg_advisory_xact_lock(%s), set_config('idle_in_transaction_session_timeout', '{_IDLE_SECONDS}s', true)"
_LEAD = "SELECT number FROM lease WHERE name = 'lead'"


def prepare(engine: Engine) -> None:
    """Let who writes first wait for the one who writes, as SQLite does: services decide by what they have read.

    Without that, two threads could each read a row and write over what the other made of it, and two that write the same
    rows in a different order would wait for each other.
    """
    from milonga_hub import silence

    silence.watch(engine)
    event.listen(engine, "connect", _limit_waiting)
    event.listen(engine, "before_cursor_execute", _write_alone)


def take_turn(connection: Connection, name: str, seconds: float) -> None:
    """Wait for the turn of this name, until the transaction ends. Nobody has it for longer than so many seconds."""
    limits = ", ".join(
        f"set_config('{name}', '{1000 * limit:.0f}ms', true)"
        for name, limit in (("idle_in_transaction_session_timeout", seconds), ("lock_timeout", 1.25 * seconds))
    )
    connection.exec_driver_sql(f"SELECT {limits}")
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (TURN, name))


class Unreachable(FailedPrecondition):
    """The server does not answer, or does not let this hub in."""


def hold(engine: Engine) -> Connection:
    """Return the connection by which this process has the database alone, until it is closed or the process ends.

    Raises FailedPrecondition where a hub uses it.
    """
    connection = _lasting(engine)
    try:
        connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (HUB,))
    except OperationalError as error:
        connection.close()
        raise FailedPrecondition(
            f"another hub is using the database {place(engine)}; stop it, or name another with --database-url"
        ) from error
    return connection


def hold_with_others(engine: Engine, hub: str) -> Connection:
    """Return the connection by which this process is one of the hubs of the database, and others know that it is there.

    Raises FailedPrecondition where somebody has it alone.
    """
    connection = _lasting(engine)
    try:
        connection.exec_driver_sql("SELECT pg_advisory_lock_shared(%s)", (HUB,))
        connection.exec_driver_sql("SELECT pg_advisory_lock(%s, hashtext(%s))", (MEMBER, hub))
    except OperationalError as error:
        connection.close()
        raise FailedPrecondition(
            f"the database {place(engine)} is being restored or migrated, or another hub of an earlier version is using it;"
            " wait for it or stop that hub, or name another with --database-url"
        ) from error
    return connection


def is_there(connection: Connection, hub: str) -> bool:
    """Return whether the hub's process has its connection still; not for who asks."""
    asked = (MEMBER, hub)
    if not connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s, hashtext(%s))", asked).scalar():
        return True
    connection.exec_driver_sql("SELECT pg_advisory_unlock(%s, hashtext(%s))", asked)
    return False


def _lasting(engine: Engine) -> Connection:
    connection = connected(engine).execution_options(isolation_level="AUTOCOMMIT")
    # Of a hub whose machine lost its power, the server hears nothing: it lets go after a minute.
    for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
        connection.exec_driver_sql(f"SET tcp_keepalives_{name} = {value}")
    connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    return connection


def connected(engine: Engine) -> Connection:
    """Return a connection. Raises Unreachable with the server's reason where there is none to be had."""
    try:
        return engine.connect()
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise Unreachable(
            f"cannot use the database {place(engine)}: {reason}; see to the server, or mend MILONGA_DATABASE_URL"
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


def place(engine: Engine) -> str:
    """Return which database it is, without the password."""
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=True)


def begin_writing(connection: Connection) -> None:
    """Wait until nobody else writes; others wait until the transaction ends. Raises LeadLost for who led once."""
    connection.exec_driver_sql(_TAKE, (WRITER,))
    connection.info["writes_in"] = connection.get_transaction()
    if fencing.number() is not None and connection.exec_driver_sql(_LEAD).scalar() != fencing.number():
        raise fencing.LeadLost


def _limit_waiting(connection: Any, record: Any) -> None:
    connection.autocommit = True
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.autocommit = False


def _write_alone(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    writes = context is not None and (context.isinsert or context.isupdate or context.isdelete)
    if writes and connection.info.get("writes_in") is not connection.get_transaction():
        begin_writing(connection)
