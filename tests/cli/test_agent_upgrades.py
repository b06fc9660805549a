"""`milonga devices upgrade`: the hub does it, and the command shows it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.alerts.models import AlertState
from milonga_hub.db import utc_now
from milonga_hub.devices.models import File, Inventory
from milonga_hub.devices.service import Enrolment
from milonga_hub.devices.values import AgentRelease, AgentStatus, Hello
from milonga_hub.rollouts.models import Rollout, RolloutState
from milonga_hub.rollouts.service import RolloutService

from tests.certificates import Key
from tests.cli.conftest import Cli, Said, served
from tests.web.filled import Services, filled

VERSION = "0.2.0+8"
RELEASE = AgentRelease(File(path="manifest.json", digest="sha256:agent", size_bytes=1), (), 8, VERSION)


@pytest.fixture
def upgrading(tmp_path: Path, run: Callable[[list[str]], Said]) -> Iterator[Cli]:
    """Return the command line of a hub that has an agent to upgrade to, for this test alone."""
    hub = filled(tmp_path)
    hub.devices.offer_release(lambda: RELEASE)
    with served(hub) as address:
        yield Cli(address, hub, run)


@pytest.fixture
def one(tmp_path: Path, run: Callable[[list[str]], Said]) -> Iterator[Cli]:
    """Return the command line of a hub with that agent and one device, pi-1."""
    hub = Services(tmp_path)
    hub.devices.offer_release(lambda: RELEASE)
    _, token = hub.devices.create_join_token({})
    inventory = Inventory(board="pi5", machine_id="pi-1")
    hub.devices.enrol(Enrolment(token, "pi-1", inventory, "0.1.0+7", True, {}, Key().request()))
    _connect(hub, AgentStatus(), "0.1.0+7", "first")
    with served(hub) as address:
        yield Cli(address, hub, run)


def _connect(hub: Services, status: AgentStatus, agent_version: str, boot_id: str) -> None:
    inventory = hub.devices.get("pi-1").inventory
    hello = Hello(inventory=inventory, agent_version=agent_version, boot_id=boot_id, status=status)

    async def opened() -> None:
        hub.devices.connections.open("pi-1", hello)

    # Streams belong to an event loop; what they carry is not of interest here.
    asyncio.run(opened())


class Ahead:
    """What devices and the hub's loop do while a command follows an upgrade: as soon as it is there, and in another thread."""

    def __init__(self, hub: Services, act: Callable[[Ahead], None]) -> None:
        self.hub = hub
        # Two minutes ahead: whoever took the release has run it for long enough.
        self.rollouts = RolloutService(
            hub.database, hub.events, hub.devices, hub.builds, lambda: utc_now() + timedelta(minutes=2)
        )
        self._act = act
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        begin = hub.rollouts.upgrade_agents

        def tell(*arguments: Any, **named: Any) -> Rollout:
            made = begin(*arguments, **named)
            self._begun.set()
            return made

        hub.rollouts.upgrade_agents = tell  # type: ignore[method-assign]

    def _follow(self) -> None:
        self._begun.wait()
        self._act(self)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._begun.is_set(), "nothing began"
        self._thread.join()

    def comes_back(self, problem: str = "") -> None:
        """Let the device start anew, as the release unless there was a problem."""
        device = self.hub.devices.get("pi-1")
        status = AgentStatus(upgrades=device.wanted_upgrades, upgrade_problem=problem)
        _connect(self.hub, status, device.agent_version if problem else VERSION, "second")


def _takes_it(ahead: Ahead) -> None:
    ahead.rollouts.advance()
    ahead.comes_back()
    ahead.rollouts.advance()


def _refuses(ahead: Ahead) -> None:
    ahead.rollouts.advance()
    ahead.comes_back("the agent was not upgraded: no room")
    ahead.rollouts.advance()


def test_an_upgrade_is_followed_until_it_has_succeeded(one: Cli) -> None:
    with Ahead(one.hub, _takes_it):
        said = one("devices", "upgrade", "-l", "name=pi-1")
    assert (said.code, said.err) == (0, "")
    first, *_, last = said.out.splitlines()
    assert first.startswith("agents.1 goes on in the hub")
    assert [word for word in last.split() if word] == ["wave", "1", "pi-1", "succeeded"]


def test_an_upgrade_is_followed_until_it_needs_a_person(one: Cli) -> None:
    with Ahead(one.hub, _refuses):
        said = one("devices", "upgrade", "-l", "name=pi-1")
    assert said.code == 1 and "paused" in said.out and "no room" in said.out
    assert "milonga rollouts resume agents.1" in said.out and "milonga rollouts abort agents.1" in said.out


def test_programs_that_follow_an_upgrade_read_nothing_but_json(one: Cli) -> None:
    with Ahead(one.hub, _refuses):
        said = one("devices", "upgrade", "-l", "name=pi-1", "--json")
    lines = [json.loads(line)["rollout"] for line in said.out.splitlines()]
    assert (
        said.code == 1
        and lines[-1]["state"] == "ROLLOUT_STATE_PAUSED"
        and {each["id"] for each in lines} == {"agents.1"}
    )


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_ctrl_c_ends_the_following_and_not_the_upgrade(one: Cli, form: tuple[str, ...]) -> None:
    command = ["--hub", one.address, "devices", "upgrade", "-l", "name=pi-1", *form]
    following = subprocess.Popen(
        [sys.executable, "-m", "milonga_hub.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    first = following.stdout.readline()
    assert json.loads(first) if form else first.startswith("agents.1 goes on")
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=120)
    assert following.returncode == 130
    assert err == (
        "agents.1 goes on; follow it: milonga rollouts watch agents.1; hold it up: milonga rollouts pause agents.1\n"
    )
    assert not form or all(json.loads(line) for line in out.splitlines())
    assert one.hub.rollouts.get("agents.1").state is RolloutState.RUNNING


def test_what_is_for_rollouts_is_refused_with_the_name_of_one_device(one: Cli) -> None:
    said = one("devices", "upgrade", "pi-1", "--dry-run")
    assert said.code == 2 and "--selector name=pi-1" in said.err
    assert one.hub.devices.get("pi-1").wanted_upgrades == 0


def test_an_upgrade_is_rehearsed_begun_followed_and_stays_in_the_hub(upgrading: Cli) -> None:
    cli = upgrading
    all_of_them = ("devices", "upgrade", "-l", "type=raspberry-pi-5", "--batch", "1")
    rehearsed = cli(*all_of_them, "--dry-run")
    assert rehearsed.code == 0 and "nothing was done" in rehearsed.out and "pi5-2" in rehearsed.out
    begun = cli(*all_of_them, "--detach")
    assert begun.code == 0 and "follow it: milonga rollouts watch agents.1" in begun.out
    assert f"agent {VERSION}" in cli("rollouts", "show", "agents.1").out
    assert f"agent {VERSION}" in cli("rollouts", "list").out
    assert "agents.1 upgrades agents" in cli(*all_of_them).err

    # The hub's loop is turned here.
    cli.hub.rollouts.abort("agents.1")
    assert cli("devices", "upgrade", "-l", "name=pi5-1", "--detach").code == 0
    cli.hub.rollouts.advance()
    count = cli.hub.devices.get("pi5-1").wanted_upgrades
    told = AgentStatus(upgrades=count, upgrade_problem="the agent was not upgraded: no room")
    cli.hub.devices.connections.heartbeat("pi5-1", told)
    cli.hub.rollouts.advance()
    assert cli.hub.rollouts.get("agents.2").state is RolloutState.PAUSED
    cli.hub.alerts.look()
    said = {alert.subject: alert.message for alert in cli.hub.alerts.list(AlertState.OPEN)[0]}
    assert said["rollouts/agents.2"].startswith(f"the rollout of agent {VERSION} is paused: wave 1: 1 of 1 devices")
    assert not [message for message in said.values() if f"did not take agent {VERSION}" in message]
    shown = cli("devices", "show", "pi5-1")
    assert f"failed: to {VERSION}" in shown.out.replace("\n", " ") and "no room" in shown.out
    assert "milonga rollouts resume agents.2" in cli("rollouts", "show", "agents.2").out
    assert "roll-back" not in cli("rollouts", "show", "agents.2").out
    listed = cli("devices", "list", "-l", "name=pi5-1").out
    assert "(upgrade" in listed and "failed)" in listed
    cli.hub.rollouts.abort("agents.2")
