"""What a device did is answered from quarters of an hour as from its windows, whenever they were added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry import quarters
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.retention import Keeper
from milonga_hub.telemetry.rules_quarters import QUARTER, packed_sum, unpacked_sum
from milonga_hub.telemetry.rules_retention import Retention
from milonga_hub.telemetry.rules_series import Sum, series, summed
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url
from tests.telemetry.windows import START, plausible_counts, window, window_of

_DAY = timedelta(days=1)


class World:
    def __init__(self, folder: Path) -> None:
        self.now = START
        self.database = Database(database_url(folder / "test.db"))
        self.database.create_tables()
        self.service = TelemetryService(
            self.database, EventBus(), lambda bundle: None, lambda project: DriftPolicy(), lambda: self.now
        )
        self.keeper = Keeper(self.database, self.service.totals, self.service.quarters, Retention(), lambda: self.now)

    def asked(self, since: datetime = START - _DAY, device: str = "pi-1", until: datetime | None = None) -> list[Sum]:
        return self.service.series(device, since, until or self.now + _DAY, QUARTER)

    def quarters_of(self, device: str = "pi-1") -> int:
        with self.database.session() as session:
            counted = "SELECT count(*) FROM telemetry_quarter WHERE device = :device"
            return int(session.connection().execute(sa.text(counted), {"device": device}).scalar_one())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _windows(numbers: Sequence[int], **values: object) -> list[TelemetryWindow]:
    random = np.random.default_rng(3)
    return [
        window_of(plausible_counts(random, 20), number, cpu_percent=float(number), memory_bytes=number, **values)
        for number in numbers
    ]


def _as_windows_tell(windows: Sequence[TelemetryWindow]) -> list[Sum]:
    return [replace(each, class_counts=[*each.class_counts]) for each in series(windows, QUARTER)]


def _same(found: Sequence[Sum], wanted: Sequence[Sum]) -> bool:
    """Means of parts differ from those of all by rounding."""
    loads = [(one.cpu_percent, other.cpu_percent) for one, other in zip(found, wanted, strict=True)]
    return [replace(one, cpu_percent=None) for one in found] == [
        replace(one, cpu_percent=None) for one in wanted
    ] and all(one == pytest.approx(other) for one, other in loads)


def test_a_sum_is_what_was_packed() -> None:
    whole = summed(_windows(range(5), temperature_celsius=40.5), START)
    assert unpacked_sum(START, whole.window_count, packed_sum(whole)) == whole
    empty = Sum(START)
    assert unpacked_sum(START, 0, packed_sum(empty)) == replace(empty, class_counts=[])


def test_windows_are_answered_alike_before_they_are_added_up_meanwhile_and_after(world: World) -> None:
    windows = _windows(range(100))
    world.keeper.add_up()
    world.service.store(windows[:70])
    assert _same(world.asked(), _as_windows_tell(windows[:70])) and not world.quarters_of()
    world.keeper.add_up()
    assert world.quarters_of() == 3
    assert _same(world.asked(), _as_windows_tell(windows[:70]))
    world.service.store(windows[70:])
    assert _same(world.asked(), _as_windows_tell(windows))
    world.keeper.add_up()
    assert world.quarters_of() == 4
    assert _same(world.asked(), _as_windows_tell(windows))


def test_a_window_that_comes_late_finds_its_quarter(world: World) -> None:
    windows = _windows(range(60))
    world.keeper.add_up()
    world.service.store([*windows[:10], *windows[20:]])
    world.keeper.add_up()
    world.service.store(windows[10:20])
    assert _same(world.asked(), _as_windows_tell(windows))
    world.keeper.add_up()
    assert _same(world.asked(), _as_windows_tell(windows))


def test_devices_are_kept_apart(world: World) -> None:
    world.keeper.add_up()
    world.service.store([window(number, name, request_count=1) for number in range(40) for name in ("pi-1", "pi-2")])
    world.keeper.add_up()
    assert [one.request_count for one in world.asked(device="pi-2")] == [30, 10]
    assert world.asked(device="pi-3") == []


def test_a_hub_that_ended_in_the_middle_counts_none_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.keeper.add_up()
    names = [f"pi-{number}" for number in range(1, 6)]
    windows = {name: _windows(range(40), device=name) for name in names}
    world.service.store([one for each in windows.values() for one in each])
    monkeypatch.setattr(quarters, "_DEVICES_AT_ONCE", 2)

    def ends(session: object, kept: object) -> None:
        raise RuntimeError("the hub ends")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(quarters, "_note", ends)
        world.keeper.add_up()
    assert world.quarters_of("pi-1") == 2
    assert all(_same(world.asked(device=name), _as_windows_tell(windows[name])) for name in names)
    world.service.store(_windows(range(40, 50), device="pi-1"))
    world.keeper.add_up()
    assert [one.window_count for one in world.asked(device="pi-1")] == [30, 20]
    assert all(_same(world.asked(device=name), _as_windows_tell(windows[name])) for name in names[1:])


def test_what_was_there_before_is_told_by_windows(world: World) -> None:
    windows = _windows(range(-400, 900))
    world.service.store(windows[:400])
    # From two hours later on.
    world.keeper.add_up()
    world.service.store(windows[400:])
    world.keeper.add_up()
    assert world.quarters_of() == 22
    assert _same(world.asked(), _as_windows_tell(windows))


def test_a_part_of_the_time_is_asked_for(world: World) -> None:
    windows = _windows(range(120))
    world.keeper.add_up()
    world.service.store(windows)
    world.keeper.add_up()
    wanted = _as_windows_tell(windows)[1:3]
    found = world.asked(START + timedelta(minutes=20), until=START + timedelta(minutes=45))
    assert _same(found, wanted)


def test_quarters_go_where_windows_become_hours_and_the_answer_stays(world: World) -> None:
    world.keeper.add_up()
    windows = _windows(range(120))
    world.service.store(windows)
    world.keeper.add_up()
    assert world.quarters_of() == 4
    world.now = START + timedelta(days=15)
    world.keeper.add_up()
    while world.keeper.tidy("pi-1"):
        pass
    assert world.quarters_of() == 0
    [hour] = world.asked()
    assert (hour.started_at, hour.request_count) == (START, sum(one.request_count for one in windows))


def test_merged_windows_are_not_added_again(world: World) -> None:
    world.keeper.add_up()
    windows = _windows(range(120))
    world.service.store(windows)
    world.now = START + timedelta(days=3)
    # Not in quarters yet: nothing is merged.
    world.keeper.tidy("pi-1")
    assert len(world.service.query(device="pi-1", page_size=1000)[0]) == 120
    world.keeper.add_up()
    world.keeper.tidy("pi-1")
    assert len(world.service.query(device="pi-1", page_size=1000)[0]) == 60
    world.keeper.add_up()
    assert _same(world.asked(), _as_windows_tell(windows))
