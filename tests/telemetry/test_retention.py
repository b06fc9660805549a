"""Old telemetry grows coarser and is forgotten in the end; counts stay right."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry import retention
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.quarters import devices
from milonga_hub.telemetry.retention import Keeper
from milonga_hub.telemetry.rules_retention import HOUR, MINUTE, Retention
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url
from tests.telemetry.windows import START, plausible_counts, window, window_of

# An hour and ten minutes of windows of half a minute.
COUNT = 140


class World:
    def __init__(self, folder: Path) -> None:
        self.now = START
        self.database = Database(database_url(folder / "test.db"))
        self.database.create_tables()
        self.service = TelemetryService(self.database, EventBus(), lambda bundle: None, lambda project: DriftPolicy())
        self.keeper = Keeper(self.database, self.service.totals, self.service.quarters, Retention(), lambda: self.now)
        random = np.random.default_rng(3)
        counts = [plausible_counts(random, 20) for _ in range(COUNT)]
        self.service.store([window_of(each, number, temperature_celsius=40 + number / 10, dropped_count=number // 9)
                            for number, each in enumerate(counts)])  # fmt: skip

    def tidy(self, days: float) -> list[TelemetryWindow]:
        """Return what is left, oldest first, after the keeper came by so many days later."""
        self.now = START + timedelta(days=days)
        self.keeper.add_up()
        while self.keeper.tidy("pi-1"):
            pass
        return sorted(self.service.query(page_size=1000)[0], key=lambda one: one.started_at)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _sums(windows: list[TelemetryWindow]) -> tuple[int, list[int], list[int]]:
    histograms = [one.inputs["brightness"].counts for one in windows]
    return (
        sum(one.request_count for one in windows),
        [sum(column) for column in zip(*histograms, strict=True)],
        [sum(column) for column in zip(*(one.class_counts for one in windows), strict=True)],
    )


def test_young_windows_stay_as_they_came(world: World) -> None:
    assert len(world.tidy(2.0)) == COUNT


def test_windows_become_minutes_then_hours_and_counts_stay_right(world: World) -> None:
    raw = _sums(world.tidy(1.0))
    minutes = world.tidy(3.0)
    assert (len(minutes), {one.resolution_seconds for one in minutes}) == (COUNT // 2, {MINUTE})
    assert _sums(minutes) == raw
    hours = world.tidy(15.0)
    assert (len(hours), {one.resolution_seconds for one in hours}) == (2, {HOUR})
    assert _sums(hours) == raw
    assert hours[0].temperature_celsius == pytest.approx(40 + 119 / 10)
    assert (hours[0].dropped_count, hours[1].dropped_count) == (119 // 9, 139 // 9)
    assert (hours[0].started_at, hours[0].ended_at) == (START, START + timedelta(hours=1))
    assert world.tidy(15.1) == hours


def test_what_a_hub_that_was_off_for_weeks_finds_becomes_hours_at_once_in_small_batches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BATCH_WINDOWS", 50)
    found = world.tidy(30.0)
    assert sum(one.request_count for one in found) == 20 * COUNT
    assert len(found) <= 2 + COUNT // 50 and {one.resolution_seconds for one in found} == {HOUR}


def test_devices_and_boots_are_never_mixed(world: World) -> None:
    world.service.store([window(1, device="pi-2", request_count=7), window(2, boot_id="later", request_count=7)])
    found = world.tidy(15.0)
    assert sorted((one.device, one.boot_id) for one in found)[-1] == ("pi-2", "boot")
    assert ("pi-1", "later") in {(one.device, one.boot_id) for one in found}
    assert [*devices(world.database)] == ["pi-1", "pi-2"]


def test_a_year_later_they_are_forgotten(world: World) -> None:
    assert world.tidy(366.0) == []
