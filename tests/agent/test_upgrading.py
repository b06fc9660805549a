"""Upgrading from afar: an agent takes its hub's release once, and none that is old, strange, or that cannot work here."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from milonga.release import KIND, PROJECT, read_release
from milonga.v1 import agent_pb2, devices_pb2
from milonga_agent import care, unpacking
from milonga_agent.care import StartAnew
from milonga_agent.daemon import Agent, Options
from milonga_agent.errors import HubUnreachable
from milonga_agent.reports import sentence
from milonga_agent.state import Store
from milonga_hub.devices.models import AgentUpgrade, AgentUpgradeState, Device, DeviceState
from milonga_hub.devices.values import AgentRelease
from milonga_hub.errors import FailedPrecondition
from milonga_hub.install import releases
from milonga_hub.install.releases import AgentReleases
from milonga_hub.install.wheels import Wheel
from milonga_hub.rollouts.models import RolloutDeviceState, RolloutState
from milonga_hub.rollouts.service import RolloutService

from tests.devices.world import Agent as Caller
from tests.devices.world import World, hub, people, run
from tests.rollouts.fleet import KnownBuilds

NAME = "pi-1"


def _releases(world: World) -> AgentReleases:
    return AgentReleases(world.settings.data_dir / "agent_release.json", world.blobs, world.signing)


def _agent(world: World, folder: Path) -> Agent:
    token = "" if (folder / "identity.json").exists() else world.token()
    options = Options(hub=f"127.0.0.1:{world.port}", data_dir=folder, name=NAME, join_token=token)
    return Agent(replace(options, engines=("onnxruntime",)))


def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str = "") -> Path:
    """Return where releases belong, as the script that starts agents says it."""
    folder = tmp_path / "agent" / "releases"
    monkeypatch.setenv("MILONGA_AGENT_START", str(tmp_path / "start"))
    monkeypatch.setenv("MILONGA_AGENT_RELEASES", str(folder))
    monkeypatch.setenv("MILONGA_AGENT_RELEASE", release)
    return folder


async def _upgraded(world: World, agent: Agent, told: Callable[[Device], bool]) -> bool:
    """Want an upgrade and wait for what the device tells of it; return whether it shall start anew for it."""
    task = asyncio.ensure_future(agent.run())
    try:
        world.devices.upgrade(NAME)
        waiting = asyncio.ensure_future(world.until_device(NAME, told))
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            with pytest.raises(StartAnew):
                await task
        return task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        os.close(agent._lock)


def _upgrade(world: World) -> AgentUpgrade:
    """Return what the hub knows of the device's upgrade."""
    upgrade = world.devices.get(NAME).agent_upgrade
    assert upgrade is not None
    return upgrade


def test_the_hub_knows_which_agent_fell_back_until_another_upgrade_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _installed(tmp_path, monkeypatch)

    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            world.devices.offer_release(_releases(world).current)
            first = _agent(world, tmp_path / "agent")
            await first.enrol()
            assert await _upgraded(world, first, lambda device: False)

            # As the script starts it where the release in a did not start three times.
            monkeypatch.setenv("MILONGA_AGENT_SWITCHED_BACK", str(folder / "a"))
            again = _agent(world, tmp_path / "agent")
            task = asyncio.ensure_future(again.run())
            await world.until_device(NAME, lambda device: _upgrade(world).state is AgentUpgradeState.FAILED)
            assert "did not start, so the one before it runs" in _upgrade(world).message
            world.devices.upgrade(NAME)
            with pytest.raises(StartAnew):
                await task
            os.close(again._lock)
            assert _upgrade(world).state is AgentUpgradeState.TOLD

    run(story(), 300)


def test_an_agent_takes_its_hubs_release_once_and_none_that_is_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _installed(tmp_path, monkeypatch)

    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            world.devices.offer_release(_releases(world).current)
            agent = _agent(world, tmp_path / "agent")
            await agent.enrol()
            assert await _upgraded(world, agent, lambda device: False)
            assert (folder / "current").readlink() == Path("a") and (folder / "trial-a").read_text() == "0\n"
            assert (folder / "a" / "milonga_agent" / "daemon.py").exists() and (folder / "a" / "milonga").is_dir()
            taken = read_release((folder / "a" / "manifest.json").read_bytes())
            assert Store(tmp_path / "agent").care().upgrades == 1
            assert _upgrade(world).state is AgentUpgradeState.TOLD

            # It runs now, and the hub has nothing newer.
            _installed(tmp_path, monkeypatch, "a")
            again = _agent(world, tmp_path / "agent")
            assert not await _upgraded(
                world,
                again,
                # While it is on line the hub sees that it runs this one, and wants nothing more.
                lambda device: device.upgrades == 2 and world.devices.upgrade(NAME).wanted_upgrades == 2,
            )
            assert not (folder / "b").exists()
            upgrade, device = _upgrade(world), world.devices.get(NAME)
            assert upgrade.state is AgentUpgradeState.SUCCEEDED
            assert device.agent_version == upgrade.agent_version == f"0.1.0+{taken.number}"
            await world.until_device(NAME, lambda device: device.state is DeviceState.OFFLINE)

            # As if it had taken a later one: this one is refused, and people read why.
            _installed(tmp_path, monkeypatch)
            (folder / "number").write_text(str(taken.number + 1))
            later = _agent(world, tmp_path / "agent")
            assert not await _upgraded(world, later, lambda device: device.upgrades == 3)
            assert f"is older than {taken.number + 1}" in world.devices.get(NAME).status_message
            assert _upgrade(world).state is AgentUpgradeState.FAILED
            assert f"is older than {taken.number + 1}" in _upgrade(world).message

    run(story(), 300)


def test_an_agent_is_upgraded_by_a_rollout_and_counts_once_it_has_run_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(tmp_path, monkeypatch)

    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            world.devices.offer_release(_releases(world).current)
            rollouts = RolloutService(world.database, world.events, world.devices, KnownBuilds([]), world.clock)
            agent = _agent(world, tmp_path / "agent")
            await agent.enrol()
            task = asyncio.ensure_future(agent.run())
            await world.until_device(NAME, lambda device: device.state is DeviceState.ONLINE)
            rollout = (await asyncio.to_thread(rollouts.upgrade_agents, "")).id
            await asyncio.to_thread(rollouts.advance)
            with pytest.raises(StartAnew):
                await task
            os.close(agent._lock)

            # As the script starts what it took.
            _installed(tmp_path, monkeypatch, "a")
            again = _agent(world, tmp_path / "agent")
            task = asyncio.ensure_future(again.run())
            await world.until_device(NAME, lambda device: _upgrade(world).state is AgentUpgradeState.SUCCEEDED)
            await asyncio.to_thread(rollouts.advance)
            assert rollouts.get(rollout).devices[0].state is RolloutDeviceState.ASSIGNED
            world.clock.advance(60)
            await asyncio.to_thread(rollouts.advance)
            assert rollouts.get(rollout).state is RolloutState.SUCCEEDED
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            os.close(again._lock)

    run(story(), 300)


def test_a_release_that_only_the_hub_says_is_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _installed(tmp_path, monkeypatch)

    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            real = _releases(world).current()
            text = json.dumps({**json.loads(world.blobs.read(real.manifest.digest)), "number": 2_000_000_000}).encode()
            # A project's keys sign no agent.
            forged = world.file(text, "manifest.json")
            world.signing.sign("digits", {forged.digest: forged.size_bytes})
            world.devices.offer_release(lambda: AgentRelease(forged, real.wheels))
            agent = _agent(world, tmp_path / "agent")
            await agent.enrol()
            assert not await _upgraded(world, agent, lambda device: device.upgrades == 1)
            assert "nobody whom this device trusts has signed" in world.devices.get(NAME).status_message
            assert not (folder / "current").exists()

    run(story(), 300)


def test_an_upgrade_that_a_broken_line_cut_off_is_tried_again_on_the_same_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(care, "backoff_seconds", lambda count, source: 0.0)
    tried: list[int] = []

    async def upgrade(release: object) -> bool:
        tried.append(len(tried))
        if len(tried) < 3:
            raise HubUnreachable("the line broke")
        return True

    async def profile(number: int) -> None: ...

    async def story() -> None:
        store = Store(tmp_path)
        caring = care.Caring(store, profile, upgrade, lambda: None, "the one of yesterday did not start")
        caring.want(agent_pb2.Care(upgrades=1, release=agent_pb2.AgentRelease()))
        with pytest.raises(StartAnew):
            await caring.run()
        assert len(tried) == 3 and store.care().upgrades == 1
        # What became of an earlier one is no answer to this one.
        assert caring.problem == ""

    run(story())


def test_a_status_keeps_apart_what_it_says_of_the_agent_and_of_the_model() -> None:
    said = sentence("", "the agent was not upgraded: run its line again", "saw only 0 requests")
    assert said == "the agent was not upgraded: run its line again; saw only 0 requests"


def test_an_agent_without_the_installers_script_says_what_to_do(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:
            agent = _agent(world, tmp_path / "agent")
            await agent.enrol()
            with pytest.raises(FailedPrecondition, match="no agent to upgrade to"):
                world.devices.upgrade(NAME)
            world.devices.offer_release(_releases(world).current)
            assert not await _upgraded(world, agent, lambda device: device.upgrades == 1)
            assert "run its line again" in world.devices.get(NAME).status_message

    run(story(), 300)


def test_a_release_is_made_beside_the_event_loop_also_for_a_device_that_connects(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Caller(world, NAME) as agent, people(world) as stub:
            releases, loop, makers = _releases(world), threading.get_ident(), list[int]()

            def making() -> AgentRelease:
                makers.append(threading.get_ident())
                return releases.current()

            world.devices.offer_release(making)
            await agent.join()
            await stub.UpgradeDevice(devices_pb2.UpgradeDeviceRequest(name=NAME))
            care = await agent.hear("care")
            assert care.upgrades == 1 and len(care.release.wheels) == 2
            await agent.connect()
            assert (await agent.hear("care")).release == care.release
            assert len(makers) == 3 and loop not in makers

    run(story())


def _wheel(folder: Path, requires: str, daemon: str = "") -> dict[str, str]:
    path = folder / "milonga_agent-9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in {"__init__": "", "daemon": daemon, "cli": "def main(given): print(9)"}.items():
            wheel.writestr(f"milonga_agent/{name}.py", content)
        needs = f"Metadata-Version: 2.1\nName: milonga-agent\nVersion: 9\n{requires}\n"
        wheel.writestr("milonga_agent-9.dist-info/METADATA", needs)
    return {path.name: str(path)}


@pytest.mark.parametrize(
    ("requires", "daemon", "problem"),
    [
        ("Requires-Dist: grpcio>=1.60\nRequires-Dist: tensorrt; extra == 'tensorrt'", "", ""),
        ("Requires-Dist: grpcio>=999", "", "the new agent needs grpcio>=999, and this device has 1."),
        ("Requires-Dist: not-there-at-all", "", "this device has none: run the line that installs agents again here"),
        ("", "raise SystemError('broken')", "the new agent does not start here: SystemError: broken"),
    ],
)
def test_a_release_that_cannot_work_here_is_not_taken(tmp_path: Path, requires: str, daemon: str, problem: str) -> None:
    said = unpacking.unpack(_wheel(tmp_path, requires, daemon), tmp_path / "new")
    assert said.startswith(problem) or problem in said
    assert bool(said) == bool(problem)


def test_a_changed_agent_has_a_higher_number_and_an_unchanged_one_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with hub(tmp_path / "hub") as world:

            def number() -> int:
                text = world.blobs.read(_releases(world).current().manifest.digest)
                assert {"kind": KIND, "project": PROJECT}.items() <= json.loads(text).items()
                return read_release(text).number

            first = number()
            assert number() == first
            monkeypatch.setattr(releases, "wheel_of", lambda name: Wheel(name, f"{name}.whl", b"of tomorrow"))
            assert number() > first

    run(story(), 300)
