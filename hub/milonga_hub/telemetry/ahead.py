"""Reads ahead: rows that lie far apart come off the disk several at a time, not one after the other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool
from sqlmodel import Session

from milonga_hub.db import Database

# A disk answers so many reads at once about as soon as one.
_AT_ONCE = 8
# Fewer are read as soon as the threads have been told.
_FEWEST = 4 * _AT_ONCE
# In kibibytes a connection, where SQLite's default is 2000: what is read is for the system's cache of files, which all connections share.
_CACHE_KIB = 512
_MEMORY = (None, "", ":memory:")
ROW_ID: sa.ColumnClause[int] = sa.literal_column("rowid", sa.Integer)


class Ahead:
    """Windows of a device lie where they came, one to a page of SQLite among those of all others: a question about two hundred of them
    waits two hundred times for the disk. An index knows them all beforehand. Other databases do this by themselves.

    Safe to use from several threads.
    """

    def __init__(self, database: Database) -> None:
        url = database.engine.url
        self._here = url.get_backend_name() == "sqlite" and url.database not in _MEMORY
        self._url = url
        self._starting = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._engine: sa.Engine | None = None

    def fetch(self, session: Session, table: str, rows: sa.Select[Any]) -> None:
        """Have the rows in memory that the next statement is about; `rows` selects their ROW_ID, from an index alone."""
        if self._here:
            self.fetch_ids(table, [*session.connection().execute(rows).scalars()])

    def fetch_ids(self, table: str, row_ids: Sequence[int]) -> None:
        """Have these rows in memory."""
        if not self._here or len(row_ids) < _FEWEST:
            return
        ids = sorted(row_ids)
        threads, engine = self._started()
        size = -(-len(ids) // _AT_ONCE)
        # Neighbours share pages, and the way to them.
        parts = [ids[place : place + size] for place in range(0, len(ids), size)]
        for _ in threads.map(partial(_fetch, engine, table), parts):
            pass

    def _started(self) -> tuple[ThreadPoolExecutor, sa.Engine]:
        with self._starting:
            if self._threads is None or self._engine is None:
                self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="telemetry-ahead")
                self._engine = sa.create_engine(self._url, poolclass=QueuePool, pool_size=_AT_ONCE, max_overflow=-1)
                sa.event.listen(self._engine, "connect", _prepare)
            return self._threads, self._engine


def _prepare(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    cursor.close()


def _fetch(engine: sa.Engine, table: str, ids: Sequence[int]) -> None:
    """Look for the rows: SQLite goes to the page where each must be."""
    looked = f"SELECT count(*) FROM {table} WHERE rowid IN (SELECT value FROM json_each(?))"  # noqa: S608
    with engine.connect() as connection:
        connection.exec_driver_sql(looked, (str([*ids]),))
