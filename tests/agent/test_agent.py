"""A whole agent, with its workers, against the hub's own services over gRPC: it serves the last good bundle, come what may."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from milonga_agent import daemon, nearby, pursuit, upkeep
from milonga_agent.cache import CacheOptions
from milonga_agent.daemon import Options
from milonga_agent.errors import InUse
from milonga_agent.fetching import megabytes
from milonga_agent.limits import Limits
from milonga_agent.plan import MAX_STARTS
from milonga_agent.state import Store
from milonga_hub import counts
from milonga_hub.devices.models import Device, File, ShadowSpec

from tests.agent.bundles import Example, example
from tests.devices.world import World, hub, run
from tests.signing.attacks import ATTACKS, Victim


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("bundles")
    return [example(folder / str(number), version=number) for number in (1, 2, 3)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_FIRST_WAIT_SECONDS", 0.01)


class Running:
    """An agent in this process, as `milonga-agent run` starts it."""

    def __init__(self, world: World, folder: Path, **said: Any) -> None:
        """`said` is what its operator says beyond that."""
        self.world, self.folder = world, folder
        token = world.token()
        options = Options(hub=f"127.0.0.1:{world.port}", data_dir=folder, name="pi-1", join_token=token)
        self.agent = daemon.Agent(replace(options, engines=("onnxruntime",), **said))
        self.task = asyncio.ensure_future(self.agent.run())

    def assign(self, made: Example, shadow: ShadowSpec | None = None, device: str = "pi-1") -> int:
        files = [File(path=file.path, digest=file.digest, size_bytes=file.size_bytes) for file in made.bundle.files]
        for content in made.blobs().values():
            self.world.blobs.put(content)
        version = made.bundle.manifest["model_version"]
        return self.world.devices.assign(
            device, made.bundle.digest, files, version, "digits", "onnxruntime/fp32", shadow=shadow
        )

    def sign(self, made: Example) -> None:
        self.world.signing.sign("digits", {made.bundle.digest: _manifest_size(made)})

    async def until(self, condition: Callable[[Device], bool]) -> Device:
        wait = asyncio.ensure_future(self.world.until_device("pi-1", condition))
        await asyncio.wait([wait, self.task], return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            wait.cancel()
            self.task.result()
        await wait
        return self.world.devices.get("pi-1")

    async def serve(self, made: Example) -> None:
        """Bring the agent to serve a bundle that is signed."""
        await self.until(lambda device: device.state.value == "ONLINE")
        self.sign(made)
        generation = self.assign(made)
        await self.until(lambda device: device.reported_generation == generation)
        assert self.world.devices.get("pi-1").active_bundle == made.bundle.digest, self.world.devices.steps("pi-1")

    async def kill_worker(self) -> None:
        """Kill the process that serves, and wait for the next one."""
        serving = self.agent._serving
        assert serving is not None and serving.active is not None
        killed = serving.active
        os.kill(killed.process.pid, signal.SIGKILL)
        while serving.active is killed:
            await asyncio.wait([self.task], timeout=0.02)


def _has_ended(generation: int) -> Callable[[Device], bool]:
    return lambda device: device.reported_generation == generation


def _manifest_size(made: Example) -> int:
    return next(file.size_bytes for file in made.bundle.files if file.path == "manifest.json")


@asynccontextmanager
async def running(world: World, folder: Path, **said: Any) -> AsyncIterator[Running]:
    started = Running(world, folder, **said)
    try:
        yield started
    finally:
        started.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await started.task
        os.close(started.agent._lock)


@asynccontextmanager
async def online(tmp_path: Path, **said: Any) -> AsyncIterator[Running]:
    (tmp_path / "hub").mkdir()
    async with hub(tmp_path / "hub") as world:
        world.settings.heartbeat_seconds = 0.2
        async with running(world, tmp_path / "agent", **said) as started:
            await world.until(lambda: any(device.name == "pi-1" for device in world.devices.matching("")))
            yield started


def test_every_attack_is_refused_told_and_changes_nothing(
    tmp_path: Path, versions: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with online(tmp_path) as agent:
            await agent.serve(versions[0])
            for attack, words in ATTACKS.items():
                evil = versions[1 + list(ATTACKS).index(attack) % 2]
                victim = Victim(agent.world.signing, "digits", evil.bundle.digest, _manifest_size(evil))
                agent.world.metadata = attack(victim)
                generation = agent.assign(evil)
                device = await agent.until(_has_ended(generation))
                assert device.active_bundle == versions[0].bundle.digest
                assert words in device.status_message and words in caplog.text
                steps = agent.world.devices.steps("pi-1", generation)
                assert any(step.step == "VERIFY" and step.state == "FAILED" and words in step.message for step in steps)
                caplog.clear()
                agent.world.metadata = agent.world.signing.metadata

    run(story())


def test_a_bundle_for_which_there_is_too_little_memory_or_time_leaves_the_one_before(
    tmp_path: Path, versions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(agent: Running, made: Example, words: str) -> None:
        agent.sign(made)
        device = await agent.until(_has_ended(agent.assign(made)))
        assert device.active_bundle == versions[0].bundle.digest
        assert re.search(words, device.status_message), device.status_message

    async def story() -> None:
        async with online(tmp_path) as agent:
            await agent.serve(versions[0])
            assert agent.agent._serving is not None
            agent.agent._serving._limits = Limits(memory_bytes=20_000_000)
            await refuse(agent, versions[1], "the worker ended|[Mm]emory|alloc|cannot be loaded")
            agent.agent._serving._limits = Limits()
            monkeypatch.setattr(pursuit, "slowest_ms", lambda expected_ms: 1e-6)
            await refuse(agent, versions[2], "are the most that was to be expected")

    run(story())


def test_a_bundle_that_keeps_ending_gives_way_to_the_one_before(tmp_path: Path, versions: list[Example]) -> None:
    async def story() -> None:
        async with online(tmp_path) as agent:
            await agent.serve(versions[0])
            await agent.serve(versions[1])
            for _ in range(MAX_STARTS + 1):
                await agent.kill_worker()
            device = await agent.until(lambda device: device.active_bundle == versions[0].bundle.digest)
            assert (
                "models/digits/versions/2 ended 3 times; models/digits/versions/1 serves again" in device.status_message
            )
            failed = [step for step in agent.world.devices.steps("pi-1") if step.state == "FAILED"]
            assert [step.step for step in failed] == ["ACTIVATE"]
            told = [
                s.message for s in agent.world.devices.steps("pi-1") if (s.step, s.state) == ("DOWNLOAD", "SUCCEEDED")
            ]
            # Of the second version only the manifest is new.
            assert [message.partition(" for ")[0] for message in told] == ["0.057 MB moved", "0.0014 MB moved"]

    run(story())


def test_a_full_disk_stops_nothing_that_serves(tmp_path: Path, versions: list[Example]) -> None:
    async def story() -> None:
        async with online(tmp_path) as agent:
            await agent.serve(versions[0])
            address = f"127.0.0.1:{agent.world.port}"
        # A limit on file sizes fails every write, as a full disk does; and no hub is there.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            again = daemon.Agent(Options(hub=address, data_dir=tmp_path / "agent", name="pi-1"))
            task = asyncio.ensure_future(again.run())
            await _until_it_answers(again, task)
            assert again._memory.state.active.bundle == versions[0].bundle.digest
            task.cancel()
            await asyncio.wait([task])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert Store(tmp_path / "agent").state().active.bundle == versions[0].bundle.digest

    run(story())


def test_work_that_misses_being_cancelled_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_CANCEL_AGAIN_SECONDS", 0.01)
    missed = 0

    async def misses_one() -> None:
        nonlocal missed
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        missed += 1
        await asyncio.Event().wait()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise InUse("of others")

    with pytest.raises(InUse):
        run(daemon._together([misses_one(), fails()]))
    assert missed == 1


async def _until_it_answers(agent: daemon.Agent, task: asyncio.Future[None]) -> None:
    while not task.done():
        await asyncio.sleep(0.02)
        if agent._serving is not None and agent._serving.active is not None:
            await agent._serving.demand(agent._memory.state.active)
            return
    task.result()


def test_an_agent_whose_operator_says_so_serves_its_neighbours_what_it_serves_itself(
    tmp_path: Path, versions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_DIAL_SECONDS", "_SILENT_SECONDS", "_GRACE_SECONDS"):
        monkeypatch.setattr(nearby, name, 50.0)

    async def story() -> None:
        async with online(tmp_path, cache=CacheOptions("127.0.0.1", 0)) as agent:
            await agent.serve(versions[0])
            world, made = agent.world, versions[0].bundle
            model = max(made.files, key=lambda file: file.size_bytes)
            async with running(world, tmp_path / "other", name="pi-2") as other:
                await world.until(lambda: any(device.name == "pi-2" for device in world.devices.matching("")))
                asking = world.devices.get("pi-2")
                # The process may still be starting.
                while not world.devices.caches.near(asking, "127.0.0.1", model.digest):
                    await asyncio.wait([other.task], timeout=0.02)
                before = counts.blob_bytes["neighbours"]
                other.assign(versions[0], device="pi-2")
                await world.until_device("pi-2", lambda device: device.active_bundle == made.digest)
                (fetched,) = (
                    step for step in world.devices.steps("pi-2") if (step.step, step.state) == ("DOWNLOAD", "SUCCEEDED")
                )
                assert f"{megabytes(model.size_bytes)} of it from neighbours" in fetched.message
                assert counts.blob_bytes["neighbours"] - before == model.size_bytes
                came, sent = world.devices.transfers("pi-2"), world.devices.transfers("pi-1")
                assert came.neighbour_bytes == sent.served_bytes == model.size_bytes
                assert came.whole_bytes == came.moved_bytes == sum(file.size_bytes for file in made.files)
                assert [each.rpartition(":")[0] for each in sent.serves_at] == ["127.0.0.1"] and not came.serves_at

    run(story())
