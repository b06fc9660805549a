"""What happens on the stream between an agent and the hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from milonga.v1 import agent_pb2, devices_pb2
from milonga_agent.errors import AgentError
from milonga_agent.hub import Hub
from milonga_agent.state import Credentials, Identity
from milonga_hub.devices.models import Device, DeviceBuildState, DeviceState

from tests.certificates import Key
from tests.databases import only_on_sqlite
from tests.devices.world import Agent, World, hub, people, run


def _online(device: Device) -> bool:
    return device.state is DeviceState.ONLINE


def _offline(device: Device) -> bool:
    return device.state is DeviceState.OFFLINE


def _assign(world: World, content: bytes = b"model", version: int = 1) -> int:
    file = world.file(content, "manifest.json")
    return world.devices.assign(
        "pi-1", file.digest, [file], f"models/m/versions/{version}", "digits", "onnxruntime/int8"
    )


def test_a_connected_device_is_online_and_told_its_settings(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            with world.events.listen("devices/pi-1") as events:
                await agent.enrol()
                assert (await events.next()).payload.state is DeviceState.OFFLINE
                settings = await agent.connect()
                assert (settings.heartbeat_seconds, settings.telemetry_seconds) == (10, 30)
                assert (await events.next()).payload.state is DeviceState.ONLINE

    run(story())


def test_an_assignment_reaches_the_device_and_its_steps_come_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            generation = _assign(world)
            assignment = await agent.hear("assignment")
            assert (assignment.generation, assignment.project) == (generation, "digits")
            assert [file.path for file in assignment.files] == ["manifest.json"]
            started, succeeded = agent_pb2.STEP_STATE_STARTED, agent_pb2.STEP_STATE_SUCCEEDED
            for state, message in ((started, "1 of 2"), (started, "2 of 2"), (succeeded, "done"), (succeeded, "done")):
                step = agent_pb2.StepReport(
                    generation=generation, step=agent_pb2.STEP_DOWNLOAD, state=state, message=message
                )
                await agent.stream.write(agent_pb2.ConnectRequest(step=step))
            unknown = agent_pb2.StepReport.FromString(b"\x08\x01\x10\x63\x18\x01")  # Step 99.
            await agent.stream.write(agent_pb2.ConnectRequest(step=unknown))
            await agent.heartbeat(generation, assignment.bundle)
            await world.until_device("pi-1", lambda device: device.reported_generation == generation)
            device = world.devices.get("pi-1")
            assert (device.active_version, device.active_engine) == ("models/m/versions/1", "onnxruntime/int8")
            steps = world.devices.steps("pi-1", generation)
            # One of a newer agent's is passed over.
            assert [(step.step, step.state, step.message) for step in steps] == [
                ("DOWNLOAD", "STARTED", "2 of 2"),
                ("DOWNLOAD", "SUCCEEDED", "done"),
            ]
            assert world.devices.steps("pi-1", generation + 1) == []

    run(story())


def test_a_device_that_connects_gets_its_assignment_until_it_has_reached_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            generation = _assign(world)
            await agent.connect()
            assignment = await agent.hear("assignment")
            assert assignment.generation == generation
            agent.stream.cancel()
            await world.until_device("pi-1", _offline)
            await agent.connect(generation, "sha256:" + "1" * 64)  # It tried, and went back to what it had.
            assert (await agent.hear("assignment")).generation == generation
            await agent.connect(generation, assignment.bundle)
            newer = _assign(world, b"newer", 2)
            assert (await agent.hear("assignment")).generation == newer  # Nothing came between.

    run(story())


def test_the_same_wish_keeps_its_generation_and_another_one_grows_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            assert [_assign(world, b"a"), _assign(world, b"a"), _assign(world, b"b"), _assign(world, b"a")] == [
                1,
                1,
                2,
                3,
            ]

    run(story())


def test_a_device_that_has_seen_more_than_the_hub_still_gets_its_assignment(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            assert _assign(world) == 1
            await agent.connect(generation=7)
            assert (await agent.hear("assignment")).generation == 8
            assert world.devices.get("pi-1").assigned_generation == 8

    run(story())


def test_a_device_that_goes_back_to_an_earlier_bundle_shows_its_version(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            _assign(world, b"old", 1)
            old = (await agent.hear("assignment")).bundle
            _assign(world, b"new", 2)
            new = (await agent.hear("assignment")).bundle
            for bundle, version in ((new, "models/m/versions/2"), (old, "models/m/versions/1"), ("", "")):
                await agent.heartbeat(2, bundle)
                await world.until_device("pi-1", lambda device, version=version: device.active_version == version)  # type: ignore[misc]

    run(story())


def test_a_device_is_offline_once_its_stream_ends(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            agent.stream.cancel()
            await world.until_device("pi-1", _offline)
            await agent.connect()
            assert _online(world.devices.get("pi-1"))
            await agent.stream.done_writing()
            await world.until_device("pi-1", _offline)

    run(story())


def test_a_device_that_falls_silent_is_taken_offline_and_its_stream_ended(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as silent, Agent(world, "pi-2") as lively:
            await silent.join()
            await lively.join()
            world.clock.advance(30)
            await lively.heartbeat(generation=1)
            await world.until_device("pi-2", lambda device: device.reported_generation == 1)
            world.devices.connections.check_heartbeats()
            assert _online(world.devices.get("pi-1"))
            world.clock.advance(1)
            world.devices.connections.check_heartbeats()
            assert _offline(world.devices.get("pi-1"))
            assert _online(world.devices.get("pi-2"))
            assert await silent.stream.code() is grpc.StatusCode.FAILED_PRECONDITION

    run(story())


def test_heartbeats_that_bring_no_news_are_written_at_the_next_check(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            world.clock.advance(29)
            await agent.heartbeat()
            report = agent_pb2.StepReport(generation=1, step=agent_pb2.STEP_PROBE)
            await agent.stream.write(agent_pb2.ConnectRequest(step=report))
            await world.until(lambda: len(world.devices.steps("pi-1")) == 1)  # So the heartbeat has been read too.
            world.clock.advance(29)
            world.devices.connections.check_heartbeats()
            device = world.devices.get("pi-1")
            assert _online(device)
            assert device.seen_at is not None
            assert (world.clock.now - device.seen_at).total_seconds() == 29

    run(story())


def test_a_clock_that_is_wrong_is_noted_until_it_is_right_and_moments_on_the_way_are_not(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            assert world.devices.get("pi-1").clock_ahead_seconds is None
            await agent.heartbeat(ahead_seconds=-3600)
            await world.until_device("pi-1", lambda device: device.clock_ahead_seconds == -3600)
            # Some seconds late, and some news after it, so that it has been read.
            await agent.heartbeat(ahead_seconds=-3608)
            await agent.heartbeat(generation=1, ahead_seconds=-3601)
            await world.until_device("pi-1", lambda device: device.reported_generation == 1)
            assert world.devices.get("pi-1").clock_ahead_seconds == -3600
            await agent.heartbeat(generation=1, ahead_seconds=0.2)
            await world.until_device("pi-1", lambda device: device.clock_ahead_seconds == 0.2)

    run(story())


def test_a_time_that_no_clock_shows_ends_no_stream(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            beat = agent_pb2.Heartbeat(status=agent_pb2.AgentStatus(generation=1))
            beat.sent_at.seconds, beat.sent_at.nanos = 2**63 - 1, -(2**31)
            await agent.stream.write(agent_pb2.ConnectRequest(heartbeat=beat))
            await world.until_device("pi-1", lambda device: device.reported_generation == 1)
            assert (world.devices.get("pi-1").clock_ahead_seconds or 0) > 1e11
            await agent.heartbeat(generation=1, ahead_seconds=0)
            await world.until_device("pi-1", lambda device: device.clock_ahead_seconds == 0)

    run(story())


def test_the_heartbeat_watch_notices_by_itself(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            world.clock.advance(31)
            watch = asyncio.create_task(world.devices.watch_heartbeats())
            await world.until_device("pi-1", _offline)
            watch.cancel()

    run(story())


def test_a_second_connection_of_a_device_replaces_the_first(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            first = agent.stream
            await agent.connect()
            assert await first.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "connected once more" in await first.details()
            assert _online(world.devices.get("pi-1"))
            _assign(world)
            await agent.hear("assignment")

    run(story())


def test_an_agent_that_a_copy_of_it_pushed_out_says_so_in_the_hubs_words(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as copy:
            await copy.enrol()
            identity = Identity("pi-1", "board-1", f"127.0.0.1:{world.port}", world.device_port, "127.0.0.1", 0)
            own = Credentials(world.tls.authority.certificate, copy.key.pem, copy.certificate.encode())
            line, outgoing = Hub(identity, own), asyncio.Queue[agent_pb2.ConnectRequest]()
            outgoing.put_nowait(agent_pb2.ConnectRequest(hello=agent_pb2.Hello()))
            pushed_out = asyncio.ensure_future(line.connect(outgoing, lambda message: None))
            await world.until_device("pi-1", _online)
            await copy.connect()
            with pytest.raises(AgentError, match=r"^the hub says: pi-1 connected once more, .* stop one of the two"):
                await pushed_out
            await line.close()

    run(story())


def test_a_stream_that_does_not_begin_with_hello_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            agent.stream = agent.stub.Connect()
            await agent.heartbeat()
            assert await agent.stream.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert _offline(world.devices.get("pi-1"))

    run(story())


def test_a_device_whose_hardware_changed_moves_to_another_type(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            agent.inventory.cores = 8
            await agent.connect()
            assert world.devices.get("pi-1").device_type == "board-1-2"
            types, _ = world.devices.types()
            assert [(each.name, each.device_count) for each in types] == [("board-1", 0), ("board-1-2", 1)]

    run(story())


@only_on_sqlite
def test_a_new_hub_on_the_same_data_knows_everything(tmp_path: Path) -> None:
    async def before() -> tuple[str, Key]:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            token = world.token(uses=2)
            await agent.enrol(token)
            await agent.connect()
            world.devices.update_labels("pi-1", {"site": "busan"})
            _assign(world)
            await agent.hear("assignment")
            # A hub that dies cannot write that its devices are offline; keep what it would leave behind.
            with world.database.engine.connect() as connection:
                connection.exec_driver_sql(f"VACUUM INTO '{tmp_path / 'left-behind.db'}'")
            return token, agent.key

    token, key = run(before())
    for path in tmp_path.glob("milonga.db*"):
        path.unlink()
    (tmp_path / "left-behind.db").rename(tmp_path / "milonga.db")

    async def after() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1", key) as agent, Agent(world, "pi-2") as second:
            assert _online(world.devices.get("pi-1"))
            world.devices.connections.check_heartbeats()
            device = world.devices.get("pi-1")
            assert _offline(device)
            assert (device.labels, device.device_type) == ({"site": "busan"}, "board-1")
            assert (await agent.enrol(token)).key_fingerprint == key.fingerprint
            await agent.connect()
            assert (await agent.hear("assignment")).generation == 1
            assert (await second.enrol(token)).device_type == "board-1"

    run(after())


def test_a_blob_is_fetched_in_chunks_from_where_the_device_stopped(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            content = bytes(range(256)) * 2049  # Two chunks of 256 KiB and a little.
            _assign(world, content)
            digest = world.file(content).digest
            chunks = await agent.fetch(digest)
            assert b"".join(chunks) == content
            assert [len(chunk) for chunk in chunks] == [262144, 262144, 256]
            assert b"".join(await agent.fetch(digest, 300_000)) == content[300_000:]
            assert await agent.fetch(digest, len(content)) == []
            for offset in (-1, len(content) + 1):
                with pytest.raises(grpc.aio.AioRpcError, match="offset_bytes must be") as refused:
                    await agent.fetch(digest, offset)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(story())


def test_a_device_fetches_only_what_it_is_assigned(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, Agent(world, "pi-2") as other:
            await agent.enrol()
            await other.enrol()
            _assign(world, b"model")
            digest = world.file(b"model").digest
            for who, wanted in ((other, digest), (agent, world.file(b"secret").digest), (agent, "../../etc/passwd")):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await who.fetch(wanted)
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert await agent.fetch(digest) == [b"model"]

    run(story())


def test_what_a_device_built_for_itself_is_kept_and_the_engine_that_really_serves_is_shown(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, people(world) as stub:
            await agent.join()
            file = world.file(b"made of", "manifest.json")
            generation = world.devices.assign(
                "pi-1", file.digest, [file], "models/m/versions/1", "digits", "tensorrt/fp16"
            )
            failed, verified = devices_pb2.DEVICE_BUILD_STATE_FAILED, devices_pb2.DEVICE_BUILD_STATE_VERIFIED
            told = devices_pb2.DeviceBuild(
                device="another", bundle=file.digest, engine="tensorrt", precision="fp16", gpu="Orin", state=failed,
                seconds=3.5, error="no memory",
            )  # fmt: skip
            await agent.stream.write(agent_pb2.ConnectRequest(device_build=told))
            status = agent_pb2.AgentStatus(
                generation=generation, active_bundle=file.digest, active_engine="onnxruntime/fp32"
            )
            await agent.stream.write(agent_pb2.ConnectRequest(heartbeat=agent_pb2.Heartbeat(status=status)))
            await world.until_device("pi-1", lambda device: device.active_bundle == file.digest)
            device = world.devices.get("pi-1")
            assert (device.active_version, device.active_engine) == ("models/m/versions/1", "onnxruntime/fp32")
            (kept,) = (await stub.ListDeviceBuilds(devices_pb2.ListDeviceBuildsRequest(device="pi-1"))).device_builds
            assert (kept.device, kept.state, kept.error) == ("pi-1", failed, "no memory")
            told.MergeFrom(devices_pb2.DeviceBuild(state=verified, max_abs_error=0.01))
            told.ClearField("error")
            with world.events.listen("device_builds/pi-1") as events:
                await agent.stream.write(agent_pb2.ConnectRequest(device_build=told))
                await events.next()
            (last,) = world.devices.device_builds(bundle=file.digest)[0]
            assert (last.state, last.error, last.max_abs_error) == (DeviceBuildState.VERIFIED, "", 0.01)
            world.devices.delete("pi-1")
            assert world.devices.device_builds()[0] == []

    run(story())


def test_a_device_build_in_no_known_state_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            await agent.stream.write(agent_pb2.ConnectRequest(device_build=devices_pb2.DeviceBuild(engine="x")))
            with pytest.raises(grpc.aio.AioRpcError, match="does not know"):
                await agent.stream.read()

    run(story())
