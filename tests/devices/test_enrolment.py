"""How machines become devices, and who is let in afterwards."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from milonga.v1 import devices_pb2
from milonga_hub.authority import presented

from tests.certificates import Key
from tests.databases import only_on_sqlite
from tests.devices.world import Agent, hub, people, run


def test_enrolling_twice_gives_the_same_identity_and_uses_the_token_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            token = world.token(uses=1)
            first = await agent.enrol(token)
            assert (first.device, first.mqtt_host, first.mqtt_port) == ("pi-1", "127.0.0.1", 8883)
            assert first.device_type == "board-1"
            again = await agent.enrol(token)
            assert (again.device, again.key_fingerprint) == (first.device, agent.key.fingerprint)
            for response in (first, again):
                assert world.devices.authenticate(presented(response.certificate.encode())).name == "pi-1"
            (kept,), _ = world.devices.list_join_tokens()
            assert kept.uses_left == 0

    run(story())


@only_on_sqlite
def test_no_secret_is_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            token = world.token()
            await agent.enrol(token)
            stored = b"".join(path.read_bytes() for path in tmp_path.glob("milonga.db*"))
            assert b"pi-1" in stored
            assert token.partition(".")[0].encode() not in stored
            for name in ("hub.key", "authority/authority.key"):
                assert (tmp_path / name).stat().st_mode & 0o777 == 0o600

    run(story())


@pytest.mark.parametrize("kind", ["wrong", "expired", "used up"])
def test_a_token_that_does_not_hold_is_refused_with_the_way_out(tmp_path: Path, kind: str) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, Agent(world, "pi-2") as other:
            token = world.token(uses=1, lifetime_seconds=60)
            if kind == "wrong":
                token = "x" + token
            elif kind == "expired":
                world.clock.advance(60)
            else:
                await other.enrol(token)
            with pytest.raises(grpc.aio.AioRpcError, match="make a new one: milonga tokens create") as refused:
                await agent.enrol(token)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert not world.devices.matching("name=pi-1")

    run(story())


def test_another_machine_cannot_take_a_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, Agent(world, "pi-1", Key()) as thief:
            await agent.enrol()
            token = world.token(uses=1)
            with pytest.raises(grpc.aio.AioRpcError, match="milonga devices delete pi-1") as refused:
                await thief.enrol(token)
            assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
            async with Agent(world, "pi-2") as honest:
                await honest.enrol(token)  # The refused attempt did not use the token.

    run(story())


@pytest.mark.parametrize(
    ("name", "request_"),
    [("Pi 1", Key().request()), ("pi-1", b"short"), ("pi-1", bytes(10_000)), ("pi-1", Key().request()[:-1] + b"x")],
    ids=["name", "junk", "oversized", "not signed by its key"],
)
def test_a_bad_name_or_request_does_not_use_the_token(tmp_path: Path, name: str, request_: bytes) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, name) as agent:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await agent.enrol(world.token(), certificate_request=request_)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert world.devices.list_join_tokens()[0][0].uses_left == 1

    run(story())


def test_labels_of_the_agent_win_over_those_of_its_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            _, token = world.devices.create_join_token({"site": "busan", "owner": "lab"})
            await agent.enrol(token, labels={"site": "seoul"})
            assert world.devices.get("pi-1").labels == {"site": "seoul", "owner": "lab"}

    run(story())


def test_the_same_request_makes_one_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world:
            first = world.devices.create_join_token({}, request_id="r1")
            again = world.devices.create_join_token({}, request_id="r1")
            other = world.devices.create_join_token({}, request_id="r2")
            assert first[1] == again[1] != other[1]
            assert first[0].id == again[0].id != other[0].id

    run(story())


def test_the_key_of_a_deleted_device_stays_refused_when_its_name_is_taken_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, people(world) as stub:
            await agent.join()
            await stub.DeleteDevice(devices_pb2.DeleteDeviceRequest(name="pi-1"))
            assert await agent.stream.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError, match="enrol it again"):
                await agent.fetch("sha256:" + "0" * 64)
            async with Agent(world, "pi-1", Key()) as successor:
                await successor.join()
                with pytest.raises(grpc.aio.AioRpcError, match="another key"):
                    await agent.fetch("sha256:" + "0" * 64)

    run(story())
