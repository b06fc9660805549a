"""What one hub does reaches devices and listeners of another on the same PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from milonga.v1 import agent_pb2, common_pb2
from milonga_hub.builds.service import BuildService
from milonga_hub.db import Database
from milonga_hub.devices.models import Device, DeviceState, Inventory
from milonga_hub.devices.rpc import take_answer
from milonga_hub.devices.service import DeviceService, MeasurementItem, Presence
from milonga_hub.devices.values import AgentStatus, Hello, NewAssignment, Passed
from milonga_hub.events import EventBus
from milonga_hub.hubs.between import Between
from milonga_hub.hubs.models import HubMessage
from milonga_hub.hubs.service import Membership
from milonga_hub.migrations import running
from milonga_hub.projects.service import ProjectService
from milonga_hub.runs.service import RunService
from milonga_hub.settings import Settings
from sqlmodel import select

from tests.databases import postgresql_url

HELLO = Hello(inventory=Inventory(), agent_version="1", boot_id="b", status=AgentStatus())


@dataclass
class Half:
    """As much of a hub as has streams."""

    database: Database
    hubs: Membership
    events: EventBus
    devices: DeviceService
    between: Between

    @classmethod
    def of(cls, url: str, folder: Path) -> Half:
        database, events = Database(url), EventBus()
        hubs = Membership(database)
        hubs.enter(folder="shared", broker="mqtts://broker")
        between = Between(database, events, hubs)
        devices = DeviceService(
            database,
            events,
            Settings(data_dir=folder),
            presence=Presence(hubs.id, hubs.alive),
            announce=between.announce,
        )
        runs = RunService(database, events, ProjectService(database, events, None))  # type: ignore[arg-type]
        between.connect(devices, runs, BuildService(database, None, events, None))  # type: ignore[arg-type]
        return cls(database, hubs, events, devices, between)

    def close(self) -> None:
        self.between.stop()
        self.hubs.leave()
        self.database.close()


@pytest.fixture
def halves(tmp_path: Path, postgresql: str) -> Iterator[tuple[Half, Half]]:
    url = postgresql_url(tmp_path / "hub", postgresql)
    one, other = Half.of(url, tmp_path), Half.of(url, tmp_path)
    one.hubs._beat()
    with one.database.session() as session:
        session.add_all([Device(name=name, device_type="pi5", key_fingerprint=name) for name in ("pi-1", "pi-2")])
    yield one, other
    one.close()
    other.close()


def assign(half: Half, device: str) -> int:
    return half.devices.assign(device, "sha256:" + "a" * 64, [], "models/m/versions/1", "m", "onnxruntime/fp32")


def test_an_assignment_made_at_one_hub_comes_on_the_stream_at_the_other(halves: tuple[Half, Half]) -> None:
    one, other = halves

    async def story() -> None:
        one.between.start()
        other.between.start()
        stream = other.devices.connections.open("pi-1", HELLO)
        assert (await stream.next()).__class__.__name__ == "AgentSettings"
        with other.events.listen("devices/") as news:
            generation = await asyncio.to_thread(assign, one, "pi-1")
            sent = await asyncio.wait_for(stream.next(), 60)
            assert not isinstance(sent, NewAssignment) and getattr(sent, "generation", 0) == generation
            # Pages at the other hub are told, too.
            while (event := await asyncio.wait_for(news.next(), 60)).payload.assigned_generation != generation:
                assert event.topic == "devices/pi-1"

    asyncio.run(story())


def test_a_device_that_comes_to_another_hub_leaves_the_first(halves: tuple[Half, Half]) -> None:
    one, other = halves

    async def story() -> None:
        one.between.start()
        other.between.start()
        first = one.devices.connections.open("pi-1", HELLO)
        await first.next()
        second = other.devices.connections.open("pi-1", HELLO)
        with pytest.raises(Exception, match="connected to another hub"):
            await asyncio.wait_for(first.next(), 60)
        # The end of the older stream takes nobody offline.
        one.devices.connections.close(first)
        assert one.devices.get("pi-1").state is DeviceState.ONLINE
        other.devices.connections.close(second)
        assert one.devices.get("pi-1").state is DeviceState.OFFLINE

    asyncio.run(story())


def test_heartbeats_of_one_hub_leave_the_devices_of_the_other_online_until_it_is_gone(
    halves: tuple[Half, Half],
) -> None:
    one, other = halves

    async def story() -> None:
        other.devices.connections.open("pi-1", HELLO)
        one.devices.connections.check_heartbeats()
        assert one.devices.get("pi-1").state is DeviceState.ONLINE
        other.hubs.leave()
        one.hubs._beat()
        one.devices.connections.check_heartbeats()
        assert one.devices.get("pi-1").state is DeviceState.OFFLINE

    asyncio.run(story())


def test_a_device_is_measured_through_the_hub_that_has_its_stream(halves: tuple[Half, Half]) -> None:
    one, other = halves

    async def story() -> None:
        one.between.start()
        other.between.start()
        stream = other.devices.connections.open("pi-1", HELLO)
        await stream.next()
        item = MeasurementItem(subnet="s", engine="onnxruntime", precision="fp32", files=[])
        asked = asyncio.create_task(one.devices.measure("pi5", [item], "run", "test"))
        passed = await asyncio.wait_for(stream.next(), 60)
        assert isinstance(passed, Passed)
        request = agent_pb2.ConnectResponse.FromString(passed.body).measurement_request
        answer = agent_pb2.ConnectRequest(
            measurement=agent_pb2.MeasurementResult(id=request.id, latency_ms=common_pb2.Percentiles(p50=2.5, count=9))
        )
        slot = f"measurement/{request.id}"
        assert other.devices.answered_elsewhere("pi-1", slot, answer.SerializeToString())
        (measured,) = await asyncio.wait_for(asked, 60)
        assert measured.median_ms == 2.5 and measured.device == "pi-1"
        # Asked by this hub itself, it is this hub's to take.
        assert not other.devices.answered_elsewhere("pi-1", slot, answer.SerializeToString())
        take_answer(other.devices, "pi-1", answer)

    asyncio.run(story())


def test_what_was_asked_before_a_hub_listened_is_heard_when_it_does(halves: tuple[Half, Half]) -> None:
    one, other = halves

    def written() -> int:
        with one.database.session() as session:
            return len(session.exec(select(HubMessage)).all())

    async def story() -> None:
        stream = other.devices.connections.open("pi-1", HELLO)
        await stream.next()
        item = MeasurementItem(subnet="s", engine="onnxruntime", precision="fp32", files=[])
        asked = asyncio.create_task(one.devices.measure("pi5", [item], "run", "test"))
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(written):
                await asyncio.sleep(0.01)
        other.between.start()
        assert isinstance(await asyncio.wait_for(stream.next(), 60), Passed)
        assert written() == 0
        asked.cancel()

    asyncio.run(story())


def test_tables_that_would_change_under_a_hub_are_left_as_they_are(
    halves: tuple[Half, Half], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = halves
    with pytest.raises(Exception, match="stop them first"):
        running.migrate(one.database.engine, "0003")
    assert running.revisions(one.database.engine)[-1].reached
