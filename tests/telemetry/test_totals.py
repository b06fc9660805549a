"""What a fleet did is added up as windows come in, and charts ask for it in even steps."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules_series import Sum, drift_scores, series, step_for, summed
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.telemetry.totals import forget
from sqlalchemy.exc import OperationalError

from tests.databases import database_url
from tests.telemetry.windows import START, histogram, plausible_counts, reference_of, window, window_of

DAY = timedelta(days=1)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return database


@pytest.fixture
def service(database: Database) -> TelemetryService:
    return _restarted(database)


def _fleet(count: int, sequence: int = 0) -> list[TelemetryWindow]:
    return [
        window(sequence, f"pi-{index}", request_count=10, error_count=index % 2, cpu_percent=float(index), memory_bytes=index,
               temperature_celsius=40.0 + index, class_counts=[index, 1])
        for index in range(count)
    ]  # fmt: skip


def _all(service: TelemetryService, step: int = 60, until: datetime = START + DAY) -> Sequence[Sum]:
    (found,) = service.totals.series("digits", START, until, step).values()
    return found


def test_windows_of_many_devices_become_one_sum_a_step(service: TelemetryService) -> None:
    service.store([*_fleet(4), *_fleet(4, sequence=2)])
    first, second = _all(service)
    assert (first.window_count, first.request_count, first.error_count) == (4, 40, 2)
    assert (first.cpu_percent, first.memory_bytes, first.temperature_celsius) == (1.5, 3, 43.0)
    assert [*first.class_counts] == [6, 4]
    assert second.started_at - first.started_at == timedelta(minutes=1)


def test_what_comes_later_and_what_comes_again_is_added_once(service: TelemetryService) -> None:
    service.store(_fleet(3))
    service.store(_fleet(4))
    (whole,) = _all(service)
    assert (whole.window_count, whole.cpu_percent) == (4, 1.5)


def test_sums_are_those_of_all_windows_in_every_step(service: TelemetryService) -> None:
    random = np.random.default_rng(0)
    windows = [window_of(plausible_counts(random, 20), number, device=f"pi-{number % 3}") for number in range(200)]
    service.store(windows[:90])
    service.store(windows[90:])
    at_once = summed(service.query(page_size=1000)[0], START)
    for step in (60, 300, 3600):
        assert summed(_all(service, step), START) == at_once
    of_device = service.series("pi-1", START, START + DAY, 300)
    assert sum(one.request_count for one in of_device) == 20 * len([one for one in windows if one.device == "pi-1"])


def test_a_fleet_is_told_by_version_and_project(service: TelemetryService) -> None:
    service.store([window(0), window(1, model_version="models/digits/versions/2"), window(2, project="letters")])
    assert len(service.totals.series("", START, START + DAY, 60)) == 3
    assert list(service.totals.series("letters", START, START + DAY, 60)) == [("letters", "models/digits/versions/1")]
    assert service.totals.series("digits", START + DAY, START + 2 * DAY, 60) == {}


def _restarted(database: Database) -> TelemetryService:
    return TelemetryService(
        database, EventBus(), lambda bundle: None, lambda project: DriftPolicy(), lambda: START + DAY
    )


def test_requests_are_counted_by_version_from_a_minute_on(service: TelemetryService) -> None:
    service.store([*_fleet(4), *_fleet(4, sequence=2)])
    assert service.requests_by_version("digits", START, START + DAY) == {window(0).model_version: [(40, 2), (40, 2)]}
    later = START + timedelta(seconds=90)
    assert service.requests_by_version("digits", later, START + DAY) == {window(0).model_version: [(40, 2)]}
    assert service.requests_by_version("faces", START, START + DAY) == {}


def test_what_a_hub_had_stored_and_not_added_when_it_died_is_added_once_by_the_next(database: Database) -> None:
    for started in range(3):
        # Each is left behind with a window that it has not added.
        service = _restarted(database)
        service.store(_fleet(3, sequence=10 * started))
        service.totals.write()
        service.store(_fleet(3, sequence=10 * started + 1))
    assert sum(one.window_count for one in _all(_restarted(database))) == 18


def test_windows_are_kept_and_charts_are_shown_while_sums_cannot_be_written(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = _restarted(database)
    service.store(_fleet(2))
    _all(service)
    service.store(_fleet(3))
    with monkeypatch.context() as patch:
        patch.setattr(service.totals, "write", _on_a_full_disk)
        service.store(_fleet(4))
        assert _all(service)[0].window_count == 2
    assert "could not add up telemetry (database or disk is full)" in caplog.text
    assert _all(service)[0].window_count == 4


def _on_a_full_disk() -> None:
    raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


def test_windows_that_an_earlier_version_added_are_not_added_again(database: Database) -> None:
    service = _restarted(database)
    service.store(_fleet(3))
    service.totals.write()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM telemetry_added")
    later = _restarted(database)
    later.store(_fleet(4))
    assert _all(later)[0].window_count == 4


def test_the_ids_of_windows_that_were_merged_are_not_given_again(database: Database) -> None:
    service = _restarted(database)
    service.store(_fleet(3))
    service.totals.write()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM telemetry_window")
    service.store(_fleet(2, sequence=1))
    assert _all(_restarted(database))[0].window_count == 5


def test_minutes_are_forgotten_before_hours(service: TelemetryService, database: Database) -> None:
    service.store(_fleet(2))
    service.totals.write()
    forget(database, START + 15 * DAY, days=365)
    assert service.totals.series("", START, START + DAY, 60) == {}
    assert _all(service, 3600)[0].window_count == 2
    forget(database, START + 366 * DAY, days=365)
    assert service.totals.series("", START, START + DAY, 3600) == {}


@pytest.mark.parametrize(("hours", "step"), [(1, 30), (6, 300), (24, 900), (24 * 7, 7200), (24 * 30, 21600)])
def test_a_chart_has_steps_that_are_round_on_a_clock(hours: int, step: int) -> None:
    assert step_for(hours * 3600) == step


def test_nothing_is_said_of_latency_and_confidence_without_answers() -> None:
    (empty,) = series(_stored(window(0)), 60)
    assert (empty.latencies_ms, empty.mean_confidence, empty.error_share) == (None, None, None)


def test_latency_and_confidence_are_those_of_the_histograms() -> None:
    counts = [0] * 140
    counts[40:44] = [50, 30, 15, 5]
    one = window(0, request_count=100, log10_latency_ms=histogram("log10_latency_ms", counts),
                 confidence=histogram("confidence", [0] * 18 + [50, 50]))  # fmt: skip
    (found,) = series(_stored(one), 60)
    assert found.latencies_ms == pytest.approx([10**0.05, 10**0.15, 10**0.19])
    assert found.mean_confidence == pytest.approx(0.95)


def test_drift_is_scored_by_signal_against_the_validation_pictures() -> None:
    random = np.random.default_rng(1)
    expected, seen = plausible_counts(random, 2000), plausible_counts(random, 500)
    seen["brightness"] = [0] * 18 + [250, 250]
    (found,) = series(_stored(window_of(seen)), 60)
    scores = drift_scores(found, reference_of(expected))
    assert scores["brightness"] > 1.0
    assert max(score for name, score in scores.items() if name != "brightness") < 0.1
    assert drift_scores(found, {}) == {}


def _stored(one: TelemetryWindow) -> list[TelemetryWindow]:
    return [one]
