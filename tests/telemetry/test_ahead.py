"""Rows that lie far apart are read several at a time, and questions are answered as without that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.ahead import Ahead
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url, only_on_sqlite
from tests.telemetry.windows import START, window

_COUNT = 100


@pytest.fixture
def service(tmp_path: Path) -> TelemetryService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    service = TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy(), lambda: START)
    devices = ("pi-1", "pi-2")
    service.store([window(number, device=one, request_count=1) for number in range(_COUNT) for one in devices])
    return service


@pytest.fixture
def looked_for() -> Iterator[list[list[int]]]:
    """Yield the ids that were looked for beforehand, those of one thread together."""
    found: list[list[int]] = []

    def note(connection: object, cursor: object, statement: str, parameters: tuple[str, ...], *rest: object) -> None:
        if "json_each" in statement:
            found.append(json.loads(parameters[0]))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


@only_on_sqlite
def test_the_newest_windows_of_a_device_are_looked_for_by_several_threads(
    service: TelemetryService, looked_for: list[list[int]]
) -> None:
    found, token = service.query(device="pi-1", page_size=80)
    assert [one.sequence for one in found] == [*range(_COUNT - 1, _COUNT - 81, -1)]
    assert len(looked_for) > 1
    assert sorted(id_ for part in looked_for for id_ in part) == sorted(one.id or 0 for one in found)
    rest, end = service.query(device="pi-1", page_size=80, page_token=token)
    assert ([one.sequence for one in rest], end) == ([*range(19, -1, -1)], "")


@only_on_sqlite
def test_a_day_of_a_device_is_looked_for_too(service: TelemetryService, looked_for: list[list[int]]) -> None:
    sums = service.series("pi-2", START, START + timedelta(days=1), 900)
    assert sum(one.request_count for one in sums) == _COUNT
    assert sum(len(part) for part in looked_for) == _COUNT


@only_on_sqlite
def test_so_are_the_sums_of_a_project(service: TelemetryService, looked_for: list[list[int]]) -> None:
    ((sums,),) = (service.totals.series("digits", START, START + timedelta(days=1), 60).values(),)
    assert sum(one.request_count for one in sums) == 2 * _COUNT
    assert sum(len(part) for part in looked_for) == len(sums)


@only_on_sqlite
def test_a_handful_is_not_worth_it(service: TelemetryService, looked_for: list[list[int]]) -> None:
    assert len(service.query(device="pi-1", page_size=20)[0]) == 20
    assert looked_for == []


@only_on_sqlite
def test_a_database_in_memory_has_nothing_to_be_read_ahead(looked_for: list[list[int]]) -> None:
    Ahead(Database("sqlite://")).fetch_ids("telemetry_window", [*range(100)])
    assert looked_for == []
