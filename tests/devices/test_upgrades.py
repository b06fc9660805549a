"""What becomes of the wish that a device's agent be another is told from what the device says, however it says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga.v1 import agent_pb2, devices_pb2
from milonga_hub.devices.models import AgentUpgrade, AgentUpgradeState, Device, DeviceState
from milonga_hub.devices.rules_upgrades import SILENT_AFTER, Said, after, runs_release, seen, wanted
from milonga_hub.devices.values import AgentRelease

from tests.devices.world import Agent, hub, people, run

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OLD, NEW, NEWER = "0.1.0+7", "0.2.0+8", "0.2.0+9"
WAITING, TOLD, SUCCEEDED, FAILED, SILENT = AgentUpgradeState


def _asked() -> AgentUpgrade:
    return wanted(NEW, DeviceState.ONLINE, NOW)


@pytest.mark.parametrize(
    ("version", "does"),
    [(NEW, True), (NEWER, True), ("9.9.9+8", True), (OLD, False), ("0.2.0", False), ("", False), ("0.2.0+x", False)],
)
def test_a_device_runs_a_release_if_its_agent_has_that_number_or_a_later_one(version: str, does: bool) -> None:
    assert runs_release(version, NEW) is does


def test_a_device_that_is_off_line_waits_and_is_told_when_it_connects() -> None:
    upgrade = wanted(NEW, DeviceState.OFFLINE, NOW)
    assert (upgrade.state, upgrade.told_at) == (WAITING, None)
    later = NOW + timedelta(hours=1)
    told = after(upgrade, Said(False, OLD), later)
    assert (told.state, told.told_at, told.ended_at) == (TOLD, later, None)


def test_a_count_alone_says_nothing_for_an_agent_counts_before_it_starts_anew() -> None:
    assert after(_asked(), Said(True, OLD), NOW) == _asked()


def test_one_that_starts_anew_and_is_none_the_newer_has_failed_whether_it_can_say_why_or_not() -> None:
    silent = after(_asked(), Said(True, OLD, started_anew=True), NOW)
    assert (silent.state, silent.message) == (FAILED, f"it started anew and still runs {OLD}")
    assert after(_asked(), Said(True, OLD, "no room", started_anew=True), NOW).message == "no room"


def test_one_that_ran_the_release_for_a_while_and_fell_back_has_failed() -> None:
    ran = after(_asked(), Said(True, NEW, started_anew=True), NOW)
    assert ran.state is SUCCEEDED
    assert after(ran, Said(True, OLD, "it did not start", started_anew=True), NOW).state is FAILED
    # Who installs another by hand is not told that an upgrade failed.
    assert after(ran, Said(True, OLD, started_anew=True), NOW) == ran


def test_what_is_left_of_an_earlier_upgrade_is_no_answer_to_this_one() -> None:
    assert after(_asked(), Said(False, OLD, "it did not start"), NOW) == _asked()


def test_one_that_was_told_long_ago_is_silent_until_it_shows_what_became_of_it() -> None:
    device = Device(name="pi-1", device_type="pi", wanted_upgrades=1, agent_upgrade=_asked())
    assert seen(device, NOW + SILENT_AFTER) is device
    late = NOW + SILENT_AFTER + timedelta(seconds=1)
    shown = seen(device, late).agent_upgrade
    assert shown is not None and shown.state is SILENT and shown.message
    # Agents of before say why in their status alone.
    device.upgrades, device.status_message = 1, "the agent was not upgraded: no room"
    shown = seen(device, late).agent_upgrade
    assert shown is not None and shown.message == device.status_message
    device.agent_upgrade = after(_asked(), Said(True, NEW, started_anew=True), late)
    assert seen(device, late) is device


WORDS = st.builds(
    Said, st.booleans(), st.sampled_from([OLD, NEW, NEWER, ""]), st.sampled_from(["", "no"]), st.booleans()
)


@given(st.sampled_from([DeviceState.ONLINE, DeviceState.OFFLINE]), st.lists(WORDS))
def test_whatever_a_device_says_only_one_that_runs_the_release_is_said_to_have_taken_it(
    state: DeviceState, words: list[Said]
) -> None:
    upgrade, now = wanted(NEW, state, NOW), NOW
    for said in words:
        before, now = upgrade, now + timedelta(seconds=1)
        upgrade = after(before, said, now)
        # Said again, it changes nothing: a heartbeat must not be written each time.
        assert after(upgrade, said, now + timedelta(seconds=1)) == upgrade
        assert upgrade.state is not WAITING and upgrade.told_at is not None and upgrade.wanted_at == NOW
        assert (upgrade.ended_at is None) == (upgrade.state is TOLD)
        if upgrade.state is SUCCEEDED and before.state is not SUCCEEDED:
            assert said.counted and runs_release(said.agent_version, NEW)
        if upgrade.state is FAILED:
            assert upgrade.message


def test_people_see_over_the_api_what_a_device_shall_run_and_what_became_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, people(world) as stub:

            async def shown() -> devices_pb2.AgentUpgrade:
                device = (await stub.GetDevice(devices_pb2.GetDeviceRequest(name="pi-1"))).device
                return device.agent_upgrade if device.HasField("agent_upgrade") else devices_pb2.AgentUpgrade()

            file = world.file(b"release", "manifest.json")
            world.devices.offer_release(lambda: AgentRelease(file, (), 8, NEW))
            await agent.join()
            assert await shown() == devices_pb2.AgentUpgrade()
            await stub.UpgradeDevice(devices_pb2.UpgradeDeviceRequest(name="pi-1"))
            assert (await agent.hear("care")).release.version == NEW
            told = await shown()
            assert (told.agent_version, told.state) == (NEW, devices_pb2.AGENT_UPGRADE_STATE_TOLD)
            assert told.told_at == told.wanted_at

            world.clock.advance(SILENT_AFTER.total_seconds() + 1)
            assert (await shown()).state == devices_pb2.AGENT_UPGRADE_STATE_SILENT
            status = agent_pb2.AgentStatus(upgrades=1, upgrade_problem="the agent was not upgraded: no room")
            await agent.stream.write(agent_pb2.ConnectRequest(heartbeat=agent_pb2.Heartbeat(status=status)))
            await world.until_device("pi-1", lambda device: device.upgrades == 1)
            assert (await shown()).message == "the agent was not upgraded: no room"

            # Again, and now it comes back as the release.
            await stub.UpgradeDevice(devices_pb2.UpgradeDeviceRequest(name="pi-1"))
            await agent.hear("care")
            agent.boot_id = "boot-2"
            await agent.connect(agent_version=NEW, status=agent_pb2.AgentStatus(upgrades=2))
            ended = await shown()
            assert (ended.state, ended.message) == (devices_pb2.AGENT_UPGRADE_STATE_SUCCEEDED, "")
            assert ended.ended_at.ToDatetime(tzinfo=UTC) == world.clock.now

    run(story())
