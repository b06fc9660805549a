"""Databases of tests: SQLite, or PostgreSQL where MILONGA_TEST_POSTGRESQL names a server, as `make test-postgres` does."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import pytest
from milonga_hub.db import Database
from sqlalchemy import Engine, create_engine, make_url

# URL of a server on which tests may make and drop databases.
SERVER = os.environ.get("MILONGA_TEST_POSTGRESQL", "")
_TEMPLATE = "milonga_template"

only_on_sqlite = pytest.mark.skipif(bool(SERVER), reason="is about the file of SQLite")


def database_url(path: Path) -> str:
    """Return the URL of the database that stands for this file: the same one for the same path, with a hub's tables and
    nothing in them at first. Going through all revisions takes longer than most tests, so that it is done once.

    In a folder that is not there yet a hub makes SQLite's file by itself.
    """
    if SERVER:
        return postgresql_url(path, SERVER)
    if path.parent.is_dir() and not path.exists():
        path.write_bytes(_sqlite_tables())
    return f"sqlite:///{path}"


def database_setting(folder: Path) -> str:
    """Return what a hub with this data folder has as `database_url`; where it has none, its file has the tables."""
    url = database_url(folder / "milonga.db")
    return url if SERVER else ""


def postgresql_url(path: Path, server: str) -> str:
    """Return the URL of a database on the server, which has a hub's tables and nothing in them."""
    _ensure_template(server)
    return _url(path, server, _TEMPLATE)


def empty_postgresql_url(path: Path, server: str) -> str:
    """Return the URL of a database on the server with nothing in it."""
    return _url(path / "empty", server, "template1")


def drop_below(folder: Path) -> None:
    """Drop the databases that stand for files in the folder."""
    for name, (path, server) in [*_made.items()]:
        if path.is_relative_to(folder):
            with _admin(server).connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
            del _made[name]


# Path and server by the database's name.
_made: dict[str, tuple[Path, str]] = {}


def _url(path: Path, server: str, template: str) -> str:
    name = "test_" + hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24]
    if name not in _made:
        with _admin(server).connect() as connection:
            # Another process of the same test may have made it.
            there = connection.exec_driver_sql("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).scalar()
            if there is None:
                connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        _made[name] = (path.absolute(), server)
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@cache
def _sqlite_tables() -> bytes:
    """Return the file of a hub that has just started for the first time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "milonga.db"
        database = Database(f"sqlite:///{path}")
        database.create_tables()
        # The last one who leaves brings the log of what was written into the file.
        database.engine.dispose()
        return path.read_bytes()


@cache
def _admin(server: str) -> Engine:
    return create_engine(server, isolation_level="AUTOCOMMIT")


@cache
def _ensure_template(server: str) -> None:
    """Make the tables once for all tests; processes that run tests beside each other wait for the first."""
    with _admin(server).connect() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_lock(1)")
        there = connection.exec_driver_sql(
            "SELECT 1 FROM pg_database WHERE datname = %s AND datistemplate", (_TEMPLATE,)
        )
        if there.scalar() is None:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {_TEMPLATE}")
            connection.exec_driver_sql(f"CREATE DATABASE {_TEMPLATE}")
            database = Database(make_url(server).set(database=_TEMPLATE).render_as_string(hide_password=False))
            database.create_tables()
            database.engine.dispose()
            connection.exec_driver_sql(f"ALTER DATABASE {_TEMPLATE} IS_TEMPLATE true")
        connection.exec_driver_sql("SELECT pg_advisory_unlock(1)")
