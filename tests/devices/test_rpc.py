"""The devices API as programs see it."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Any

import grpc
import pytest
from milonga.v1 import devices_pb2

from tests.devices.world import START, Agent, World, hub, people, run


async def _fleet(world: World, *names: str) -> None:
    for name in names:
        async with Agent(world, name) as agent:
            await agent.enrol(labels={"site": "busan" if name < "c" else "seoul"})


def test_a_token_made_over_the_api_lets_devices_in(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, people(world) as stub, Agent(world, "pi-1") as agent:
            request = devices_pb2.CreateJoinTokenRequest(labels={"site": "busan"}, uses=2, request_id="r1")
            made = await stub.CreateJoinToken(request)
            assert (await stub.CreateJoinToken(request)).secret == made.secret
            assert made.join_token.expires_at.ToDatetime(tzinfo=UTC) == START.replace(day=START.day + 1)
            await agent.enrol(made.secret)
            listed = await stub.ListJoinTokens(devices_pb2.ListJoinTokensRequest())
            assert [(token.id, token.uses_left) for token in listed.join_tokens] == [(made.join_token.id, 1)]
            device = (await stub.GetDevice(devices_pb2.GetDeviceRequest(name="devices/pi-1"))).device
            assert dict(device.labels) == {"site": "busan"}

    run(story())


def test_devices_are_listed_in_pages_that_join_without_gap(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, people(world) as stub:
            await _fleet(world, "a", "b", "c", "d", "e")
            for selector, expected in (("", "abcde"), ("site=seoul", "cde"), ("name notin (b, d)", "ace")):
                seen, token = "", ""
                while True:
                    request = devices_pb2.ListDevicesRequest(page_size=2, page_token=token, selector=selector)
                    answer = await stub.ListDevices(request)
                    assert len(answer.devices) <= 2
                    seen += "".join(device.name for device in answer.devices)
                    token = answer.next_page_token
                    if not token:
                        break
                assert seen == expected

    run(story())


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [({"selector": "a=="}, "position 4"), ({"page_token": "???"}, "page_token"), ({"page_size": -1}, "page_size")],
)
def test_a_request_that_cannot_be_read_is_invalid(tmp_path: Path, fields: dict[str, Any], complaint: str) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, people(world) as stub:
            with pytest.raises(grpc.aio.AioRpcError, match=complaint) as refused:
                await stub.ListDevices(devices_pb2.ListDevicesRequest(**fields))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(story())


def test_labels_are_set_removed_and_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, people(world) as stub:
            await _fleet(world, "a")
            for changes, expected in (
                ({"canary": "yes"}, {"site": "busan", "canary": "yes"}),
                ({"site": ""}, {"canary": "yes"}),
            ):
                answer = await stub.UpdateDevice(devices_pb2.UpdateDeviceRequest(name="a", labels=changes))
                assert dict(answer.device.labels) == expected

    run(story())


def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, people(world) as stub:
            for call in (
                stub.GetDevice(devices_pb2.GetDeviceRequest(name="nobody")),
                stub.DeleteDevice(devices_pb2.DeleteDeviceRequest(name="nobody")),
                stub.UpdateDevice(devices_pb2.UpdateDeviceRequest(name="nobody")),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match="no device 'nobody'") as refused:
                    await call
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    run(story())


def test_watching_begins_with_what_is_there_and_goes_on_with_what_changes(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, people(world) as stub, Agent(world, "a") as agent:
            await agent.enrol(labels={"site": "busan"})
            await _fleet(world, "d")
            watch: Any = stub.WatchDevices(devices_pb2.WatchDevicesRequest(selector="site=busan"))
            first = (await watch.read()).device
            assert (first.name, first.state) == ("a", devices_pb2.DEVICE_STATE_OFFLINE)
            world.devices.update_labels("d", {"canary": "yes"})
            await agent.connect()
            second = (await watch.read()).device
            assert (second.name, second.state) == ("a", devices_pb2.DEVICE_STATE_ONLINE)
            watch.cancel()

    run(story())


def test_types_and_measurements_are_listed(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, people(world) as stub:
            await _fleet(world, "a", "b")
            types = (await stub.ListDeviceTypes(devices_pb2.ListDeviceTypesRequest())).device_types
            assert [(each.name, each.device_count, each.inventory.cores) for each in types] == [("board-1", 2, 4)]
            assert types[0].verification == "not verified on hardware"
            measured = await stub.ListMeasurements(devices_pb2.ListMeasurementsRequest(device_type="board-1"))
            assert not measured.measurements

    run(story())
