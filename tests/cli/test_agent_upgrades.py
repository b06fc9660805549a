"""`milonga devices upgrade`: the hub does it, and the command shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from milonga_hub.alerts.models import AlertState
from milonga_hub.devices.models import File
from milonga_hub.devices.values import AgentRelease, AgentStatus
from milonga_hub.rollouts.models import RolloutState

from tests.cli.conftest import Cli, Said, served
from tests.web.filled import filled

VERSION = "0.2.0+8"
RELEASE = AgentRelease(File(path="manifest.json", digest="sha256:agent", size_bytes=1), (), 8, VERSION)


@pytest.fixture
def upgrading(tmp_path: Path, run: Callable[[list[str]], Said]) -> Iterator[Cli]:
    """Return the command line of a hub that has an agent to upgrade to, for this test alone."""
    hub = filled(tmp_path)
    hub.devices.offer_release(lambda: RELEASE)
    with served(hub) as address:
        yield Cli(address, hub, run)


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
