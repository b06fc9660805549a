"""Tables go up and down through all revisions, on SQLite and on PostgreSQL, and end as the models say."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import milonga_hub.app  # noqa: F401  (All models.)
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.migrations import running
from milonga_hub.runs.models import Candidate
from sqlalchemy import inspect, text
from sqlmodel import SQLModel, select

from tests.databases import empty_postgresql_url

# What a column may hold.
_ANY = {"VARCHAR": "", "TEXT": "[]", "DATETIME": "2026-11-25 00:00:00.000000"}
EARLY = Path(__file__).parent / "tables_of_an_early_version.sql"


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Return one with nothing in it."""
    if request.param == "SQLite":
        url = f"sqlite:///{tmp_path / 'hub.db'}"
    else:
        url = empty_postgresql_url(tmp_path, request.getfixturevalue("postgresql"))
    made = Database(url)
    yield made
    made.engine.dispose()


def _tables(database: Database) -> set[str]:
    return {*inspect(database.engine).get_table_names()}


def _differences(database: Database) -> list[object]:
    with database.engine.connect() as connection:
        found: list[object] = compare_metadata(
            MigrationContext.configure(connection, opts=running.COMPARED), SQLModel.metadata
        )
    return found


def test_models_and_revisions_agree(database: Database) -> None:
    database.create_tables()
    assert _differences(database) == [], 'a model changed: write a revision, make revision MESSAGE="what it does"'


def _fill(database: Database) -> None:
    """Put a row into each table, as the database has them."""
    found = sa.MetaData()
    with database.engine.begin() as connection:
        found.reflect(connection)
        for table in found.sorted_tables:
            if table.name != "alembic_version":
                connection.execute(table.insert(), {each.name: _value(each.type) for each in table.columns})


def _value(kind: sa.types.TypeEngine[Any]) -> object:
    made = {bool: True, int: 1, float: 1.5, bytes: b"1", datetime: utc_now().replace(tzinfo=None)}
    return made.get(kind.python_type, "[]")


def _rows(database: Database) -> dict[str, int]:
    with database.engine.connect() as connection:
        return {
            name: connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one() for name in _tables(database)
        }


def test_all_the_way_down_and_up_again_with_rows_in_each_table(database: Database) -> None:
    database.create_tables()
    _fill(database)
    names = [each.name for each in running.revisions(database.engine)]
    for name in names[-2::-1]:
        running.migrate(database.engine, name)
    kept = _rows(database)
    assert len(kept) > 10 and set(kept.values()) == {1}
    for name in names[1:]:
        running.migrate(database.engine, name)
    after = _rows(database)
    assert {name: after[name] for name in kept} == kept, "what was there before is there still"
    assert all(each.reached for each in running.revisions(database.engine)) and _differences(database) == []
    running.migrate(database.engine, "base")
    assert _tables(database) <= {"alembic_version"}


def test_revisions_are_one_chain_with_numbers(tmp_path: Path) -> None:
    names = [each.name for each in running.revisions(Database(f"sqlite:///{tmp_path / 'none.db'}").engine)]
    assert names == [f"{number:04}" for number in range(1, len(names) + 1)]


def test_going_to_where_it_is_changes_nothing(database: Database) -> None:
    database.create_tables()
    before = _tables(database)
    running.migrate(database.engine, "head")
    assert _tables(database) == before


def test_a_database_of_a_newer_hub_is_refused(database: Database) -> None:
    database.create_tables()
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition, match="9999, which this version of Milonga does not know"):
        database.create_tables()


def test_a_revision_that_there_is_not_is_named(database: Database) -> None:
    with pytest.raises(InvalidInput, match="milonga migrate --list"):
        running.migrate(database.engine, "none")


def test_hubs_that_start_at_once_make_the_tables_once(database: Database) -> None:
    others = [Database(database.engine.url.render_as_string(hide_password=False)) for _ in range(4)]
    failed: list[Exception] = []

    def start(one: Database) -> None:
        try:
            one.create_tables()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=start, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in others:
        one.engine.dispose()
    assert failed == [] and _differences(database) == []


def test_what_fails_on_the_way_is_undone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = command.upgrade

    def half(config: Config, target: str) -> None:
        whole(config, target)
        raise OSError("no more room")

    monkeypatch.setattr(command, "upgrade", half)
    with pytest.raises(OSError, match="room"):
        database.create_tables()
    assert _tables(database) == set()


def test_a_busy_machine_may_take_its_time_between_two_statements(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not database.is_postgresql:
        pytest.skip("SQLite waits for ever")
    whole, limits = command.upgrade, []

    def looked_at(config: Config, target: str) -> None:
        whole(config, target)
        connection = config.attributes["connection"]
        limits.append(connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar())

    monkeypatch.setattr(command, "upgrade", looked_at)
    database.create_tables()
    assert limits == ["1min"]


def test_the_statements_alone_make_the_same_tables(database: Database) -> None:
    if not database.is_postgresql:
        pytest.skip("SQLite makes tables anew, which statements alone cannot")
    statements = running.sql(database.engine, "head")
    with database.engine.begin() as connection:
        for statement in statements.split(";\n"):
            if statement.strip() and statement.strip() not in ("BEGIN", "COMMIT"):
                connection.exec_driver_sql(statement)
    assert _differences(database) == [] and all(each.reached for each in running.revisions(database.engine))


def test_tables_of_somebody_else_are_left_alone(database: Database) -> None:
    if not database.is_postgresql:
        pytest.skip("SQLite's file is the hub's own")
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE device (other VARCHAR)"))
    with pytest.raises(FailedPrecondition, match="name an empty"):
        database.create_tables()
    assert _tables(database) == {"device"}


def test_a_data_folder_from_before_revisions_is_taken_up_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    with closing(sqlite3.connect(path)) as early:
        early.executescript(EARLY.read_text(encoding="utf-8"))
        given = {"state": "ONLINE", "labels": "{}", "inventory": "{}", "subnet": "s", "name": "pi"}
        for table in ("candidate", "device"):
            columns = [row[1:3] for row in early.execute(f"PRAGMA table_info({table})")]
            row = [given.get(name, _ANY.get(kind.partition("(")[0], 0)) for name, kind in columns]
            early.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        early.commit()
    database = Database(f"sqlite:///{path}")
    with pytest.raises(FailedPrecondition, match="without --sql"):
        running.sql(database.engine, "head")
    database.create_tables()
    with database.session() as session:
        (candidate,) = session.exec(select(Candidate)).all()
        (device,) = session.exec(select(Device)).all()
    assert (candidate.subnet, candidate.choices, candidate.drawing) == ("s", {}, "")
    assert (device.name, device.state) == ("pi", DeviceState.ONLINE)
    missing = [each for each in _differences(database) if not isinstance(each, list)]
    assert missing == [], "what differs is how columns may be empty, and how long their words"


def test_columns_and_indexes_that_came_since_are_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'hub.db'}")
    running.migrate(database.engine, "0001")
    with database.engine.begin() as connection:
        for column in ("precision", "drawing", "choices"):
            connection.execute(text(f"ALTER TABLE candidate DROP COLUMN {column}"))
        connection.execute(text("DROP INDEX ix_candidate_run"))
        connection.execute(text("DROP TABLE alembic_version"))
    database.create_tables()
    assert _differences(database) == []
    assert "ix_candidate_run" in {index["name"] for index in inspect(database.engine).get_indexes("candidate")}
