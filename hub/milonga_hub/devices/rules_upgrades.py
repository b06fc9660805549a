"""What becomes of the wish that a device's agent be another: told from what the device says of itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from milonga_hub.devices.models import AgentUpgrade, AgentUpgradeState, Device, DeviceState, DeviceView

# Three starts that hang take a watchdog's minute each, and then the agent before it runs again.
SILENT_AFTER = timedelta(minutes=10)
NOTHING_HEARD = "it was told, and nothing was heard of it since"
_OPEN = (AgentUpgradeState.WAITING, AgentUpgradeState.TOLD)


@dataclass(frozen=True)
class Said:
    """What a device says of itself on an open stream."""

    # Whether it has done with the newest wish, in whatever way.
    counted: bool
    agent_version: str
    problem: str = ""
    # These are the first words of an agent that started since it was heard last.
    started_anew: bool = False


def runs_release(agent_version: str, wanted: str) -> bool:
    """Return whether an agent that says so of itself is this release or a later one; agents that came otherwise name none."""
    return 0 < _number(wanted) <= _number(agent_version)


def wanted(agent_version: str, state: DeviceState, now: datetime) -> AgentUpgrade:
    """Return a new wish; who is on line is told at once."""
    upgrade = AgentUpgrade(agent_version=agent_version, wanted_at=now)
    return _told(upgrade, now) if state is DeviceState.ONLINE else upgrade


def after(upgrade: AgentUpgrade, said: Said, now: datetime) -> AgentUpgrade:
    """Return how the upgrade stands after the device said this.

    An agent counts an upgrade before it starts anew for it, so that its count alone says nothing. One that started and is none the
    newer has refused the release or fell back from it, whether it can say why or not.
    """
    if upgrade.state is AgentUpgradeState.WAITING:
        upgrade = _told(upgrade, now)
    if not said.counted:
        return upgrade
    if said.problem:
        # Also of one that ran for a while before it fell back.
        return _ended(upgrade, AgentUpgradeState.FAILED, said.problem, now)
    if runs_release(said.agent_version, upgrade.agent_version):
        return _ended(upgrade, AgentUpgradeState.SUCCEEDED, "", now)
    if said.started_anew and upgrade.state in _OPEN:
        why = f"it started anew and still runs {said.agent_version or 'an agent without a version'}"
        return _ended(upgrade, AgentUpgradeState.FAILED, why, now)
    return upgrade


def seen(device: Device, now: datetime) -> DeviceView:
    """Return the device as people and programs may see it: one that was told long ago and shows nothing is silent."""
    upgrade = device.agent_upgrade
    if upgrade is None or not is_silent(upgrade, now):
        return device
    why = device.status_message if device.upgrades >= device.wanted_upgrades else ""
    silent = {"state": AgentUpgradeState.SILENT, "message": why or NOTHING_HEARD}
    values = {name: getattr(device, name) for name in DeviceView.model_fields}
    return DeviceView(**{**values, "agent_upgrade": upgrade.model_copy(update=silent)})


def is_silent(upgrade: AgentUpgrade, now: datetime) -> bool:
    """Return whether the device had time enough to show what became of it, and has not."""
    told_at = upgrade.told_at
    return upgrade.state is AgentUpgradeState.TOLD and told_at is not None and now - told_at > SILENT_AFTER


def _told(upgrade: AgentUpgrade, now: datetime) -> AgentUpgrade:
    return upgrade.model_copy(update={"state": AgentUpgradeState.TOLD, "told_at": now})


def _ended(upgrade: AgentUpgrade, state: AgentUpgradeState, message: str, now: datetime) -> AgentUpgrade:
    if (upgrade.state, upgrade.message) == (state, message):
        return upgrade
    return upgrade.model_copy(update={"state": state, "message": message, "ended_at": now})


def _number(agent_version: str) -> int:
    """Return the number of the release in "0.1.0+1795762884", 0 for what names none."""
    number = agent_version.partition("+")[2]
    return int(number) if number.isdecimal() else 0
