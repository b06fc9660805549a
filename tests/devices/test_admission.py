"""Who is kept out, and how: every attack ends in a refusal and a line in the log."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from milonga.v1 import agent_pb2, devices_pb2
from milonga_hub.authority import Authority
from milonga_hub.db import Database
from milonga_hub.devices.models import DeviceState
from milonga_hub.migrations.running import migrate

from tests.certificates import Key
from tests.databases import only_on_sqlite
from tests.devices.world import Agent, World, hub, people, run

DIGEST = "sha256:" + "0" * 64


async def _refusal(agent: Agent) -> str:
    """Return why the hub does not let this agent fetch, in a word."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await agent.fetch(DIGEST)
    return str(refused.value.code().name)


@pytest.mark.parametrize("kind", ["no certificate", "another authority", "expired"])
def test_who_shows_no_good_certificate_is_refused_in_the_handshake(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            authority = Authority(tmp_path / "other") if kind == "another authority" else world.tls.authority
            lifetime = timedelta(days=-1 if kind == "expired" else 1)
            certificate = authority.issue(agent.key.request(), "pi-1", lifetime).certificate
            agent.use("" if kind == "no certificate" else certificate)
            assert await _refusal(agent) == "UNAVAILABLE"

    run(story())
    assert "Handshake failed" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["pi-2", "nobody", "milonga-hub"])
def test_a_certificate_with_a_key_that_is_not_the_devices_is_refused(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as thief, Agent(world, "pi-2") as honest:
            await thief.enrol()
            await honest.enrol()
            thief.use(world.tls.authority.issue(thief.key.request(), name, timedelta(days=1)).certificate)
            assert await _refusal(thief) == "UNAUTHENTICATED"

    run(story())
    assert "refused 127.0.0.1" in caplog.text


def test_a_device_does_not_hear_what_is_for_another(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, Agent(world, "pi-2") as other:
            await agent.join()
            await other.join()
            file = world.file(b"model")
            world.devices.assign("pi-2", "sha256:" + "1" * 64, [file], "models/d/versions/1", "d", "onnxruntime/fp32")
            assert (await other.hear("assignment")).generation == 1
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await agent.fetch(file.digest)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    run(story())


def test_a_token_that_was_seen_on_its_way_is_of_no_use_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, Agent(world, "pi-2") as thief:
            token = world.token()
            await agent.enrol(token)
            with pytest.raises(grpc.aio.AioRpcError, match="used up"):
                await thief.enrol(token)

    run(story())
    assert "refused 127.0.0.1" in caplog.text and "'pi-2'" in caplog.text


def test_an_oversized_request_to_enrol_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1", os="x" * 100_000) as agent:
            with pytest.raises(grpc.aio.AioRpcError, match="100"):
                await agent.enrol()

    run(story())
    assert "refused 127.0.0.1" in caplog.text


def test_a_malformed_renewal_ends_the_stream(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            await _ask_to_renew(agent, b"junk")
            assert await agent.stream.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(story())


async def _ask_to_renew(agent: Agent, request: bytes) -> None:
    asked = agent_pb2.CertificateRequest(certificate_request=request)
    await agent.stream.write(agent_pb2.ConnectRequest(certificate_request=asked))


def test_a_certificate_is_renewed_on_the_stream_for_the_same_key_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            settings = await agent.connect()
            assert settings.renew_after_seconds > 0
            before = world.devices.get("pi-1").certificate_expires_at
            await _ask_to_renew(agent, agent.key.request())
            renewed = await agent.hear("certificate")
            agent.use(renewed.certificate)
            await agent.connect()
            after = world.devices.get("pi-1").certificate_expires_at
            assert before is not None and after is not None and after >= before
            await _ask_to_renew(agent, Key().request())
            assert await agent.stream.code() is grpc.StatusCode.ALREADY_EXISTS

    run(story())


def test_an_open_stream_ends_with_the_certificate_that_was_not_renewed(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            ended: list[str] = []
            world.devices.on_shut_out(ended.append)
            await agent.join()
            expires_at = world.devices.get("pi-1").certificate_expires_at
            assert expires_at is not None
            world.clock.now = expires_at
            world.devices.connections.check_heartbeats()
            assert await agent.stream.code() is grpc.StatusCode.UNAUTHENTICATED
            assert ended == ["pi-1"]

    run(story())


def test_revoking_ends_the_open_stream_and_a_transfer_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, people(world) as stub:
            ended: list[str] = []
            world.devices.on_shut_out(ended.append)
            await agent.join()
            file = world.file(bytes(32 << 20))
            world.devices.assign("pi-1", "sha256:" + "1" * 64, [file], "models/d/versions/1", "d", "onnxruntime/fp32")
            transfer: Any = agent.stub.FetchBlob(agent_pb2.FetchBlobRequest(digest=file.digest))
            await transfer.read()
            answer = await stub.RevokeDevice(devices_pb2.RevokeDeviceRequest(name="pi-1"))
            assert answer.device.state == devices_pb2.DEVICE_STATE_REVOKED and ended == ["pi-1"]
            for call in (agent.stream, transfer):
                with pytest.raises(grpc.aio.AioRpcError, match="by an operator") as refused:
                    while await call.read() is not grpc.aio.EOF:
                        pass
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    run(story())


def test_a_revoked_device_stays_out_until_it_is_deleted(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            world.devices.revoke("pi-1")
            assert await _refusal(agent) == "UNAUTHENTICATED"
            with pytest.raises(grpc.aio.AioRpcError, match="milonga devices delete pi-1"):
                await agent.enrol()
            assert world.devices.get("pi-1").state is DeviceState.REVOKED
            assert world.devices.matching("") == []
            world.devices.delete("pi-1")
            await agent.enrol()
            assert await _refusal(agent) == "PERMISSION_DENIED"  # In again: it only has no such file.

    run(story())


def test_a_cloned_identity_is_noticed_and_a_restart_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            for boot in ("a", "a", "b", "c"):
                agent.boot_id = boot
                await agent.connect()
            assert world.devices.get("pi-1").cloned_at is None
            agent.boot_id = "b"
            await agent.connect()
            assert world.devices.get("pi-1").cloned_at == world.clock.now

    run(story())
    assert "two machines have the identity of pi-1" in caplog.text


# Without a token


async def _pending(world: World) -> list[tuple[str, str, str]]:
    async with people(world) as stub:
        listed = await stub.ListJoinRequests(devices_pb2.ListJoinRequestsRequest())
        return [(each.id, each.device, each.key_fingerprint) for each in listed.join_requests]


def test_a_machine_without_a_token_waits_until_an_operator_approves(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, people(world) as stub:
            for _ in range(2):
                assert (await agent.enrol("", labels={"site": "busan"})).certificate == ""
            ((id_, device, key),) = await _pending(world)
            assert (device, key) == ("pi-1", agent.key.fingerprint)
            await stub.ApproveJoinRequest(devices_pb2.ApproveJoinRequestRequest(id=id_))
            await agent.enrol("", labels={"site": "busan"})
            await agent.connect()
            assert world.devices.get("pi-1").labels == {"site": "busan"}
            assert await _pending(world) == []

    run(story())


def test_a_refused_machine_is_told_so_and_may_be_approved_later(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, people(world) as stub:
            await agent.enrol("")
            await stub.RefuseJoinRequest(devices_pb2.RefuseJoinRequestRequest(id="pi-1"))
            with pytest.raises(grpc.aio.AioRpcError, match="milonga devices approve") as refused:
                await agent.enrol("")
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            world.devices.approve("pi-1")
            await agent.enrol("")
            await agent.connect()

    run(story())


def test_approval_is_of_one_key_and_one_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, Agent(world, "pi-1", Key()) as other:
            await agent.enrol("")
            await other.enrol("")
            with pytest.raises(Exception, match="name one by its id"):
                world.devices.approve("pi-1")
            world.devices.approve("j-" + agent.key.fingerprint[7:19])
            agent.name = "pi-9"
            assert (await agent.enrol("")).certificate == ""
            assert (await other.enrol("")).certificate == ""

    run(story())


def test_strangers_cannot_fill_the_hub(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world:
            for number in range(100):
                async with Agent(world, f"s-{number}") as stranger:
                    await stranger.enrol("")
            async with Agent(world, "pi-1") as agent:
                with pytest.raises(grpc.aio.AioRpcError, match="milonga devices pending") as refused:
                    await agent.enrol("")
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                world.clock.advance(25 * 3600)
                await agent.enrol("")
                assert [device for _, device, _ in await _pending(world)] == ["pi-1"]

    run(story())


# Coming back


def test_a_device_comes_back_with_its_key_alone_and_after_a_season_an_operator_is_asked(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol()
            expired_at = world.devices.get("pi-1").certificate_expires_at
            assert expired_at is not None
            world.clock.now = expired_at + timedelta(days=world.settings.absence_days)
            assert (await agent.enrol("")).certificate
            # By the authority's clock, which is that of TLS, the new certificate ended long ago too: a moment later.
            world.clock.advance(3600)
            assert (await agent.enrol("")).certificate == ""
            world.devices.approve("pi-1")
            assert (await agent.enrol("")).device == "pi-1"

    run(story())


@only_on_sqlite
def test_a_device_of_the_time_before_certificates_joins_again_with_a_token_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    async def before() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.enrol(labels={"site": "busan"})

    run(before())
    database = Database(f"sqlite:///{tmp_path / 'milonga.db'}")
    migrate(database.engine, "0001")
    database.close()
    with sqlite3.connect(tmp_path / "milonga.db") as old:
        for column in ("secret_hash", "enrolment_key_hash", "boot_id"):
            old.execute(f"ALTER TABLE device ADD COLUMN {column} VARCHAR NOT NULL DEFAULT 'x'")
        for column in ("key_fingerprint", "certificate_expires_at", "revoked_at", "cloned_at", "boot_ids"):
            old.execute(f"ALTER TABLE device DROP COLUMN {column}")
        old.execute("DROP TABLE alembic_version")
    old.close()

    async def after() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1", Key()) as agent, Agent(world, "pi-2") as other:
            with pytest.raises(grpc.aio.AioRpcError, match="not one of this hub's"):
                await agent.enrol("mt_wrong")
            await agent.enrol()
            await agent.connect()
            assert world.devices.get("pi-1").labels == {"site": "busan"}
            await other.join()

    run(after())
