"""A backup is the same file whichever database a hub has: it is the way from SQLite to PostgreSQL, and back."""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from milonga_hub.app import Hub
from milonga_hub.backup import tables
from milonga_hub.backup.making import back_up
from milonga_hub.backup.restoring import restore
from milonga_hub.db import Database
from milonga_hub.errors import AlreadyExists, InvalidInput
from milonga_hub.settings import Settings
from sqlalchemy import inspect

from tests.databases import empty_postgresql_url
from tests.telemetry.windows import window


def _hub(folder: Path, database_url: str = "") -> Hub:
    return Hub(Settings(data_dir=folder, database_url=database_url))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a hub on SQLite that has something."""
    folder = tmp_path_factory.mktemp("old")
    hub = _hub(folder)
    hub.devices.create_join_token({"site": "busan"})
    hub.telemetry.store([window(number) for number in range(3)])
    with hub.database.engine.begin() as connection:
        as_earlier = (
            'UPDATE telemetry_window SET confidence = \'{"low": 0, "high": 1, "counts": [1, 2]}\' WHERE sequence = 1'
        )
        connection.exec_driver_sql(as_earlier)
    hub.close()
    return folder


def _told(hub: Hub) -> tuple[object, ...]:
    tokens = [(token.id, token.labels, token.created_at) for token in hub.devices.list_join_tokens()[0]]
    return (
        tokens,
        hub.telemetry.query()[0],
        hub.telemetry.totals.series("", window(0).started_at, window(9).started_at, 60),
    )


def test_from_sqlite_to_postgresql_and_back(old: Path, tmp_path: Path, postgresql: str) -> None:
    url = empty_postgresql_url(tmp_path / "there", postgresql)
    backup = back_up(old, tmp_path / "old.tar")
    restored = restore(backup.path, tmp_path / "there", database_url=url)
    assert not [*restored.data_dir.glob("milonga.db*")]
    before, there = _hub(old), _hub(restored.data_dir, url)
    try:
        assert _told(there) == _told(before)
        # Rows that came with numbers are not numbered again.
        there.telemetry.store([window(7)])
        again = back_up(restored.data_dir, tmp_path / "again.tar", database_url=url)
        back = _hub(restore(again.path, tmp_path / "back").data_dir)
        assert _told(back) == _told(there)
        back.close()
        with pytest.raises(AlreadyExists, match="name an empty one"):
            there.close()
            restore(backup.path, tmp_path / "new", database_url=url)
        assert not (tmp_path / "new").exists()
    finally:
        before.close()


def test_what_cannot_be_filled_stays_empty_and_can_be_filled_later(old: Path, tmp_path: Path, postgresql: str) -> None:
    backup = back_up(old, tmp_path / "old.tar")
    url = empty_postgresql_url(tmp_path / "there", postgresql)
    copy = tmp_path / "copy.db"
    copy.write_bytes(extracted(backup.path, "milonga.db"))
    with closing(sqlite3.connect(copy)) as flawed:
        flawed.execute("UPDATE join_token SET labels = ?", ("a\0b",))
        flawed.commit()
    database = Database(url)
    with pytest.raises(InvalidInput, match="NUL"):
        tables.fill(database, copy)
    assert {*inspect(database.engine).get_table_names()} <= {"alembic_version"}
    database.engine.dispose()
    restore(backup.path, tmp_path / "new", database_url=url)


def extracted(backup: Path, name: str) -> bytes:
    with tarfile.open(backup) as archive:
        content = archive.extractfile(name)
        assert content is not None
        return content.read()
