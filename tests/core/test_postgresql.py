"""A hub on PostgreSQL: one writer at a time, one hub a database, and values that SQLite would take are refused with a sentence."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from milonga_hub.accounts.models import FailedSignIns
from milonga_hub.app import Hub
from milonga_hub.db import Database, parsed_url, utc_now
from milonga_hub.devices.models import KnownBundle
from milonga_hub.doctor import Check, Result, examine
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.settings import Settings
from milonga_hub.telemetry.service import TelemetryService
from sqlalchemy import create_engine, make_url, text
from sqlmodel import col, select, update

from tests.databases import postgresql_url
from tests.telemetry.windows import window


@pytest.fixture
def url(tmp_path: Path, postgresql: str) -> str:
    return postgresql_url(tmp_path / "hub", postgresql)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.close()
    made.engine.dispose()


def test_who_reads_to_write_lets_nobody_write_between(database: Database) -> None:
    """As in SQLite: a count that several raise at a time loses none."""
    with database.session() as session:
        session.add(FailedSignIns(subject="pi"))

    def raise_it() -> None:
        for _ in range(20):
            with database.session() as session:
                database.begin_writing(session)
                session.exec(select(FailedSignIns)).one().count += 1

    threads = [threading.Thread(target=raise_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.session() as session:
        assert session.exec(select(FailedSignIns)).one().count == 80


def test_those_that_write_the_same_rows_in_another_order_do_not_wait_for_each_other(database: Database) -> None:
    names = ["a", "b"]
    with database.session() as session:
        session.add_all([FailedSignIns(subject=name) for name in names])
    both = threading.Barrier(2)
    failed: list[Exception] = []

    def write(order: list[str]) -> None:
        both.wait()
        for _ in range(20):
            try:
                with database.session() as session:
                    for name in order:
                        raised = update(FailedSignIns).where(col(FailedSignIns.subject) == name)
                        session.exec(raised.values(count=FailedSignIns.count + 1))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(order,)) for order in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_hubs_with_different_data_folders_are_refused_until_the_first_has_ended(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milonga_hub.postgres.LOCK_SECONDS", 1)
    first = Hub(Settings(data_dir=tmp_path / "first", database_url=url))
    with pytest.raises(FailedPrecondition, match=r"database postgresql://.*another hub.*data folder.*--database-url"):
        Hub(Settings(data_dir=tmp_path / "second", database_url=url))
    first.close()
    Hub(Settings(data_dir=tmp_path / "third", database_url=url)).close()


def test_who_needs_the_database_alone_is_refused_while_a_hub_uses_it(
    url: str, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milonga_hub.postgres.LOCK_SECONDS", 1)
    hub = Hub(Settings(data_dir=tmp_path / "hub", database_url=url))
    with pytest.raises(FailedPrecondition, match="another hub is using the database"):
        database.hold()
    hub.close()
    database.hold()
    with pytest.raises(FailedPrecondition, match="being restored or migrated"):
        Hub(Settings(data_dir=tmp_path / "hub", database_url=url))


def _cut_off(server: str, url: str) -> None:
    """End all connections to the database, as a server does that is started anew."""
    engine = create_engine(server)
    name = make_url(url).database
    with engine.connect() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
    engine.dispose()


def test_telemetry_is_kept_once_and_read_as_it_came(database: Database) -> None:
    service = TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy())
    # More than 32 bits.
    windows = [window(number, request_count=1 << 40, memory_bytes=1 << 41) for number in range(20)]
    first = service.store(windows[:12])
    second = service.store([*[window(number) for number in range(12)], *windows[12:]])
    assert [each.sequence for each in [*first, *second]] == [*range(20)]
    assert service.query(page_size=100)[0] == windows[::-1]
    service.totals.write()
    started = min(each.started_at for each in windows)
    ((sums),) = service.totals.series("", started, started + timedelta(days=1), 60).values()
    assert sum(each.request_count for each in sums) == sum(each.request_count for each in windows)


def test_what_it_cannot_hold_is_refused_with_a_sentence(database: Database) -> None:
    with pytest.raises(InvalidInput, match="cannot hold a value"), database.session() as session:
        session.add(KnownBundle(bundle="nu\0l"))
    with pytest.raises(InvalidInput, match="cannot hold a value"), database.session() as session:
        session.exec(select(KnownBundle).where(KnownBundle.bundle == "\0")).all()


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    nobody = Database(f"postgres://milonga:secret@/hub?host={tmp_path}")
    with pytest.raises(FailedPrecondition, match=r"cannot use the database .*MILONGA_DATABASE_URL") as told:
        nobody.create_tables()
    assert "secret" not in str(told.value)


def test_the_doctor_asks_the_server(url: str, tmp_path: Path) -> None:
    Hub(Settings(data_dir=tmp_path, database_url=url)).close()

    def found(at: str) -> dict[str, Check]:
        return {each.name: each for each in examine(Settings(data_dir=tmp_path, database_url=at))}

    checks = found(url)
    assert checks["database"].result is Result.OK and "PostgreSQL" in checks["database"].found
    assert checks["tables"].result is Result.OK
    with Database(url).engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert found(url)["tables"].result is Result.FAILED
    assert found(f"postgresql://nobody@/none?host={tmp_path}")["database"].result is Result.FAILED


def test_a_missing_driver_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(FailedPrecondition, match=r"pip install 'milonga-hub\[postgres\]'"):
        Database("postgresql://milonga@db/milonga")


@pytest.mark.parametrize("url", ["mysql://db/milonga", "no url", "oracle://x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="postgresql://USER"):
        parsed_url(url)


@pytest.mark.parametrize("url", ["postgres://db/m", "postgresql://db/m", "postgresql+psycopg://db/m"])
def test_a_url_is_taken_as_people_write_it(url: str) -> None:
    assert parsed_url(url).drivername == "postgresql+psycopg"


def test_the_time_is_kept_to_the_microsecond_and_without_the_servers_zone(database: Database) -> None:
    now = utc_now()
    with database.session() as session:
        session.connection().execute(text("SET LOCAL timezone = 'Asia/Seoul'"))
        session.add(FailedSignIns(subject="pi", last_at=now))
    with database.session() as session:
        assert session.exec(select(FailedSignIns)).one().last_at == now
