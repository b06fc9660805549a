"""Devices of one network take builds from each other: what a neighbour sends is verified, and whatever it does costs only time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from milonga.throttling import Throttle
from milonga.v1 import agent_pb2
from milonga_agent import caching, nearby
from milonga_agent.cache import certificate_sha256
from milonga_agent.downloads import Neighbour
from milonga_agent.errors import NeighbourFailed
from milonga_agent.fetching import Moved
from milonga_agent.keys import CACHE, make_for_cache
from milonga_agent.plan import Wish
from milonga_hub import counts
from milonga_hub.transfers.chunks import CHUNK_BYTES

from tests.certificates import Key, Tls
from tests.devices.world import Agent, World, hub, run
from tests.transfers.lines import Line, cache, noise
from tests.transports.fault_proxy import NO_FAULT, faults

_MODEL = noise(2 * CHUNK_BYTES + 1000)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a neighbour that answers is waited for."""
    for module in (nearby, caching):
        for name in ("_DIAL_SECONDS", "_SILENT_SECONDS", "_GRACE_SECONDS", "_PATIENCE_SECONDS", "_TAKEN_SECONDS"):
            monkeypatch.setattr(module, name, 50.0, raising=False)


def _nothing(fraction: float) -> None:
    """What is told of progress is not looked at here."""


@dataclass
class Network:
    """A hub, a device that fetches, and one beside it that serves what lies in its folder."""

    world: World
    asking: Line
    cache: Line
    server: caching.Server
    port: int
    sha256: bytes

    async def assign(self) -> Wish:
        """Want both to have the same bundle; the cache has it already, and has not said so."""
        self.cache.assign({"model.onnx": _MODEL})
        await self.cache.device.hear("assignment")
        wish = self.asking.assign({"model.onnx": _MODEL})
        for file in wish.files:
            self.cache.depot.blob(file.digest).write_bytes(self.world.blobs.read(file.digest))
        return wish

    async def tell(self) -> None:
        """Let the cache tell the hub where it is, and know tickets by the key that it hears."""
        told = agent_pb2.Cache(addresses=[f"127.0.0.1:{self.port}"], certificate_sha256=self.sha256)
        await self.cache.device.stream.write(agent_pb2.ConnectRequest(cache=told))
        await self.hear()

    async def hear(self) -> None:
        key = await self.cache.device.hear("cache_key")
        self.server.use(key.key, key.now.ToNanoseconds() / 1e9)

    async def neighbours(self, wish: Wish) -> tuple[Neighbour, ...]:
        return (await self.asking.courier.offer(wish.files[0].digest, ())).neighbours


@asynccontextmanager
async def network(folder: Path) -> AsyncIterator[Network]:
    async with hub(folder / "hub") as world, Agent(world, "pi-1") as first, Agent(world, "pi-2") as second:
        await first.enrol()
        await second.enrol()
        async with faults(world.device_port, lambda _: NO_FAULT) as proxy:
            asking, serving = Line(world, proxy, first, folder / "pi-1"), Line(world, proxy, second, folder / "pi-2")
            await second.connect()
            server = caching.Server(serving.depot.blobs, Throttle(0))
            make_for_cache(serving.folder)
            context = caching.context(str(serving.folder / CACHE), str(serving.store().authority_path))
            async with await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=context) as listening:
                port = listening.sockets[0].getsockname()[1]
                here = Network(
                    world,
                    asking,
                    serving,
                    server,
                    port,
                    certificate_sha256((serving.folder / CACHE).read_text(encoding="ascii")),
                )
                await here.tell()
                yield here
                server.use(b"", 0.0)


def test_the_second_device_takes_nothing_of_the_model_from_the_hub(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish, before = await here.assign(), counts.blob_bytes["hub"]
            moved = await here.asking.depot.download(wish.files, here.asking.courier, _nothing)
            here.asking.depot.verify(wish)
            # Files of a few kilobytes are here before anybody could answer who has them.
            assert counts.blob_bytes["hub"] - before == moved.whole_bytes - len(_MODEL) < 16_384
            assert moved.neighbour_bytes == len(_MODEL)
            assert str(moved) == "2.10 MB moved for 2.10 MB, 2.10 MB of it from neighbours"

    run(story())


def test_what_was_moved_of_a_small_network_is_told_too() -> None:
    assert str(Moved(5_120, 61_000, 1)) == "0.0051 MB moved for 0.061 MB, 1 as a delta"
    assert str(Moved(0, 2_097_152)) == "0.00 MB moved for 2.10 MB"


def test_a_neighbour_that_lies_costs_a_chunk_and_is_not_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            lie = here.cache.depot.blob(wish.files[0].digest)
            lie.write_bytes(_MODEL[:CHUNK_BYTES] + bytes(len(_MODEL) - CHUNK_BYTES))
            moved = await here.asking.depot.download(wish.files, here.asking.courier, _nothing)
            here.asking.depot.verify(wish)
            assert moved.neighbour_bytes == CHUNK_BYTES and moved.moved_bytes == moved.whole_bytes
            assert "pi-2 is of no use as a cache" in caplog.text and "what it sends is not the file" in caplog.text
            # It has been found out for this device, whatever the hub says.
            here.asking.depot.blob(wish.files[0].digest).unlink()
            lie.write_bytes(_MODEL)
            assert (await here.asking.depot.download(wish.files, here.asking.courier, _nothing)).neighbour_bytes == 0

    run(story())


def test_a_neighbour_that_is_gone_or_another_machine_costs_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            here.sha256 = bytes(32)
            await here.tell()
            (other,) = await here.neighbours(wish)
            with pytest.raises(NeighbourFailed, match="another machine answers"):
                await _all(other, wish.files[0].digest)
            unused = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
            here.port = unused.sockets[0].getsockname()[1]
            unused.close()
            await unused.wait_closed()
            await here.tell()
            moved = await here.asking.depot.download(wish.files, here.asking.courier, _nothing)
            here.asking.depot.verify(wish)
            assert moved.neighbour_bytes == 0 and moved.moved_bytes == moved.whole_bytes

    run(story())


def test_a_file_that_is_still_on_its_way_to_the_neighbour_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_COMING_SECONDS", 50.0)
    monkeypatch.setattr(caching, "_LOOK_SECONDS", 0.01)

    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            blob = here.cache.depot.blob(wish.files[0].digest)
            part = blob.with_name(f"{blob.name}.part")
            blob.unlink()
            part.write_bytes(_MODEL[: CHUNK_BYTES + 10])

            def arrive(fraction: float) -> None:
                """The first chunk is at the asking device: now the rest comes to the neighbour."""
                if part.exists():
                    with part.open("ab") as file:
                        file.write(_MODEL[CHUNK_BYTES + 10 :])
                    part.replace(blob)

            moved = await here.asking.depot.download(wish.files, here.asking.courier, arrive)
            here.asking.depot.verify(wish)
            assert moved.neighbour_bytes == len(_MODEL)

    run(story())


def test_what_was_begun_goes_on_at_the_neighbour_from_its_last_whole_chunk(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            blob = here.asking.depot.blob(wish.files[0].digest)
            # The chunk that was begun is damaged: it comes whole.
            blob.with_name(f"{blob.name}.part").write_bytes(_MODEL[:CHUNK_BYTES] + bytes(500))
            await here.asking.depot.download(wish.files, here.asking.courier, _nothing)
            here.asking.depot.verify(wish)

    run(story())


def test_a_ticket_is_for_one_device_one_blob_and_a_while(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            model, manifest = (file.digest for file in wish.files)
            (neighbour,) = await here.neighbours(wish)
            assert await _all(neighbour, model) == _MODEL
            with pytest.raises(NeighbourFailed, match="does not take the ticket"):
                await _all(neighbour, manifest)
            assert isinstance(neighbour, nearby.Neighbour)
            as_another = nearby.Neighbour(**{**vars(neighbour), "store": here.cache.store()})
            with pytest.raises(NeighbourFailed, match="does not take the ticket"):
                await _all(as_another, model)
            here.world.clock.advance(601)
            await here.tell()
            here.world.clock.advance(-601)
            (again,) = await here.neighbours(wish)
            with pytest.raises(NeighbourFailed, match="does not take the ticket"):
                await _all(again, model)

    run(story())


def test_who_has_no_certificate_of_the_hubs_authority_is_not_heard(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            (neighbour,) = await here.neighbours(wish)
            assert isinstance(neighbour, nearby.Neighbour)
            key, others = Key(), Tls(tmp_path / "another hub")
            store = here.asking.store()
            store.keep_certificate(others.authority.issue(key.request(), "pi-1", timedelta(days=1)).certificate)
            (here.asking.folder / "key.pem").write_bytes(key.pem)
            with pytest.raises(NeighbourFailed, match=r"the line to it broke|cannot be reached"):
                await _all(neighbour, wish.files[0].digest)

    run(story())


def test_who_shows_no_certificate_is_refused_in_the_handshake(tmp_path: Path) -> None:
    tls = Tls(tmp_path / "hub")
    make_for_cache(tmp_path)
    (tmp_path / "authority.pem").write_bytes(tls.authority.certificate)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    asked, answered = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = bare.wrap_bio(answered, asked)
    server = caching.context(str(tmp_path / CACHE), str(tmp_path / "authority.pem")).wrap_bio(asked, answered, True)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        for end in [client, server] * 3:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()


def test_a_device_that_is_revoked_gets_nothing_from_neighbours_either(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            (neighbour,) = await here.neighbours(wish)
            here.world.devices.revoke("pi-1")
            await here.hear()
            with pytest.raises(NeighbourFailed, match="does not take the ticket"):
                await _all(neighbour, wish.files[0].digest)

    run(story())


def test_a_cache_that_is_revoked_or_gone_is_named_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            assert [each.device for each in await here.neighbours(wish)] == ["pi-2"]
            strange = agent_pb2.Cache(addresses=["hub.example:1"], certificate_sha256=here.sha256)
            await here.cache.device.stream.write(agent_pb2.ConnectRequest(cache=strange))
            await here.cache.device.heartbeat(bundle="some")
            await here.world.until_device("pi-2", lambda device: device.active_bundle == "some")
            assert await here.neighbours(wish) == ()
            await here.tell()
            await here.cache.device.stream.write(agent_pb2.ConnectRequest(cache=agent_pb2.Cache()))
            await here.cache.device.heartbeat(bundle="another")
            await here.world.until_device("pi-2", lambda device: device.active_bundle == "another")
            assert await here.neighbours(wish) == ()
            await here.tell()
            assert await here.neighbours(wish) != ()
            here.world.devices.revoke("pi-2")
            assert await here.neighbours(wish) == ()

    run(story())


def test_a_cache_that_serves_as_many_as_it_may_sends_others_to_the_hub_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            with monkeypatch.context() as full:
                full.setattr(caching, "_MOST_SENDINGS", 0)
                moved = await here.asking.depot.download(wish.files, here.asking.courier, _nothing)
                assert moved.neighbour_bytes == 0 and moved.moved_bytes == moved.whole_bytes
            here.asking.depot.blob(wish.files[0].digest).unlink()
            moved = await here.asking.depot.download(wish.files, here.asking.courier, _nothing)
            assert moved.neighbour_bytes == len(_MODEL)

    run(story())


def test_a_neighbour_that_is_slow_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody is as fast as that.
    monkeypatch.setattr(nearby, "_GRACE_SECONDS", -1.0)
    monkeypatch.setattr(nearby, "_SLOWEST_BYTES_PER_SECOND", 1e15)

    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            moved = await here.asking.depot.download(wish.files, here.asking.courier, _nothing)
            here.asking.depot.verify(wish)
            assert moved.neighbour_bytes == 0 and moved.moved_bytes == moved.whole_bytes

    run(story())


def test_the_process_of_a_cache_serves_by_the_hubs_key_and_begins_anew_where_it_ends(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish = await here.assign()
            async with cache(here.cache) as serving:
                (neighbour,) = await here.neighbours(wish)
                assert await _all(neighbour, wish.files[0].digest) == _MODEL
                ended, key = serving.process, serving.key
                assert ended is not None
                ended.kill()
                while serving.key == key:
                    await asyncio.sleep(0.01)
                (neighbour,) = await here.neighbours(wish)
                assert await _all(neighbour, wish.files[0].digest) == _MODEL

    run(story())


def test_a_device_is_believed_no_more_than_it_was_assigned(tmp_path: Path) -> None:
    async def story() -> None:
        async with network(tmp_path) as here:
            wish, before = await here.assign(), counts.blob_bytes["neighbours"]
            for told in (1 << 60, -5):
                report = agent_pb2.StepReport(
                    generation=1,
                    step=agent_pb2.STEP_DOWNLOAD,
                    state=agent_pb2.STEP_STATE_SUCCEEDED,
                    neighbour_bytes=told,
                )
                await here.cache.device.stream.write(agent_pb2.ConnectRequest(step=report))
            await here.tell()
            whole = sum(file.size_bytes for file in wish.files)
            assert counts.blob_bytes["neighbours"] - before == whole

    run(story())


async def _all(neighbour: Neighbour, digest: str) -> bytes:
    return b"".join([piece async for piece in neighbour.fetch(digest, 0)])
