"""What many devices shall serve is written in one commit, and sent once it is there."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from milonga_hub.db import Database
from milonga_hub.devices.assigning import Wanted
from milonga_hub.devices.models import Device, File, Inventory, ShadowSpec, StepLog
from milonga_hub.devices.service import DeviceService
from milonga_hub.devices.values import NewAssignment
from milonga_hub.errors import NotFound
from milonga_hub.events import EventBus
from milonga_hub.settings import Settings
from sqlalchemy import event

from tests.databases import database_setting

# More than go into one statement.
COUNT = 1001
BUNDLE = "sha256:" + "1" * 64
FILES = [File(path="manifest.json", digest=BUNDLE, size_bytes=3)]


@pytest.fixture
def events() -> EventBus:
    return EventBus()


@pytest.fixture
def devices(tmp_path: Path, events: EventBus) -> DeviceService:
    settings = Settings(data_dir=tmp_path, database_url=database_setting(tmp_path))
    database = Database(settings.resolved_database_url)
    database.create_tables()
    rows = [
        {**Device(name=name, device_type="pi").model_dump(), "inventory": Inventory(time_zone="Asia/Seoul")}
        for name in names()
    ]
    with database.session() as session:
        session.connection().execute(sa.insert(Device), rows)
    return DeviceService(database, events, settings)


def names() -> list[str]:
    return [f"pi-{number:04}" for number in range(COUNT)]


def wanted(version: int = 1) -> list[Wanted]:
    about = (BUNDLE, FILES, f"models/digits/versions/{version}", "digits", "onnxruntime/fp32")
    return [Wanted(name, *about) for name in names()]


def test_a_whole_fleet_is_assigned_in_one_commit(devices: DeviceService) -> None:
    commits: list[object] = []
    event.listen(devices._database.engine, "commit", commits.append)
    assert devices.assign_all(wanted()) == dict.fromkeys(names(), 1)
    assert len(commits) == 2, "one that writes, and one to read what changed"
    standings = devices.standings()
    assert {each.assigned_generation for each in standings} == {1} and len(standings) == COUNT
    assert {each.time_zone for each in standings} == {"Asia/Seoul"}
    last = devices.assignment(names()[-1])
    assert last is not None and (last.bundle, last.files, last.engine) == (BUNDLE, FILES, "onnxruntime/fp32")
    assert devices.assigned_projects(names()[:2]) == dict.fromkeys(names()[:2], "digits")


def test_the_same_wish_keeps_its_generation_and_another_gets_the_next(devices: DeviceService) -> None:
    devices.assign_all(wanted())
    assert set(devices.assign_all(wanted()).values()) == {1}
    assert set(devices.assign_all([replace(each, shadow=ShadowSpec()) for each in wanted()]).values()) == {2}
    assert set(devices.assign_all(wanted(version=2)).values()) == {3}


def test_nothing_is_assigned_where_one_device_is_not_there(devices: DeviceService) -> None:
    with pytest.raises(NotFound, match="no device 'ghost'"):
        devices.assign_all([*wanted(), replace(wanted()[0], device="ghost")])
    assert {each.assigned_generation for each in devices.standings()} == {0}


def test_a_wish_that_a_device_gave_up_is_wanted_again_only_where_it_is_asked_for(devices: DeviceService) -> None:
    devices.assign_all(wanted())
    with devices._database.session() as session:
        session.connection().execute(sa.update(Device).values(reported_generation=1))
    assert set(devices.assign_all(wanted()).values()) == {1}
    assert set(devices.assign_all([replace(each, again=True) for each in wanted()]).values()) == {2}


def test_those_that_are_connected_are_sent_theirs_and_listeners_hear_of_all(
    devices: DeviceService, events: EventBus
) -> None:
    async def story() -> None:
        stream = devices._streams.open("pi-0007")
        with events.listen("devices/") as news:
            devices.assign_all(wanted())
            sent = await stream.next()
            assert isinstance(sent, NewAssignment) and (sent.device, sent.generation) == ("pi-0007", 1)
            first = await news.next()
            heard = [first, *news.waiting()]
            assert {each.payload.assigned_generation for each in heard} == {1} and len(heard) == COUNT
            assert news.waiting() == []

    asyncio.run(story())


def test_the_last_step_of_many_devices_is_that_which_failed(devices: DeviceService) -> None:
    told = [
        ("pi-0000", 1, "PROBE", "FAILED", "no"), ("pi-0000", 1, "ROLL_BACK", "SUCCEEDED", ""),
        ("pi-0001", 1, "PROBE", "FAILED", "of before"), ("pi-0001", 2, "DOWNLOAD", "STARTED", "a half"),
        ("pi-0002", 1, "SHADOW", "SUCCEEDED", "9 requests compared"), ("pi-0002", 1, "COMMIT", "SUCCEEDED", ""),
    ]  # fmt: skip
    for device, generation, step, state, message in told:
        devices.connections.step(StepLog(device=device, generation=generation, step=step, state=state, message=message))
    generations = {**dict.fromkeys(names(), 1), "pi-0001": 2}
    found = devices.last_steps(generations)
    assert found == {
        "pi-0000": ("PROBE", "no", ""),
        "pi-0001": ("DOWNLOAD", "a half", ""),
        "pi-0002": ("COMMIT", "", "9 requests compared"),
    }
    assert devices.last_steps({}) == {}
