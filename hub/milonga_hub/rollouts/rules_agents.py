"""Rollouts that bring the hub's own agent in the place of a model: what is asked of them, and how a device stands. Pure.

To the rules of all rollouts a device's generation is the count of its upgrades here, and its bundle the version of the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import Field as Bound

from milonga_hub.devices.models import AgentUpgradeState, DeviceState
from milonga_hub.devices.rules import attributes
from milonga_hub.devices.selectors import parse
from milonga_hub.devices.service import NOTHING_HEARD, Standing, is_silent, runs_release
from milonga_hub.errors import InvalidInput
from milonga_hub.projects.models import LateAfter, RolloutSpec, Waves
from milonga_hub.rollouts.models import RolloutDevice
from milonga_hub.rollouts.rules import Report
from milonga_hub.rollouts.rules_waves import Entrant


class AgentRolloutSpec(RolloutSpec):
    """What holds where nothing is said: all at once, and who is off line for longer than an upgrade takes holds up nobody."""

    waves: Waves = Bound(default=[1.0])
    soak_seconds: float = Bound(default=0.0, ge=0)
    late_after_seconds: LateAfter = 600.0


# How long an agent must run before its start counts as good is a minute (milonga_agent/upkeep.py).
SETTLE = timedelta(minutes=1)


def check_spec(spec: RolloutSpec) -> None:
    """Raise InvalidInput for what is about models alone."""
    asked = {
        "shadow": spec.shadow is not None,
        "max_error_increase": spec.max_error_increase is not None,
        "roll_back": spec.roll_back,
    }
    if wrong := [name for name, given in asked.items() if given]:
        raise InvalidInput(f"agents have no {wrong[0]}: one that does not start gives way to the one before by itself")


def entrants(devices: Sequence[Standing], agent_version: str, spec: RolloutSpec) -> list[Entrant]:
    """Return every device with what it would take; those that run it already are left out."""
    priorities = [parse(selector) for selector in spec.priorities]
    return [
        Entrant(
            device=device.name,
            bundle=agent_version,
            priority=next(
                (rank for rank, selector in enumerate(priorities) if selector.matches(attributes(device))),
                len(priorities),
            ),
            generation=device.wanted_upgrades,
            why_not="it runs this agent already" if runs_release(device.agent_version, agent_version) else "",
        )
        for device in devices
    ]


def report(each: RolloutDevice, device: Standing, now: datetime) -> Report:
    """Return what is known of a device: its upgrade ends when it failed, fell silent, or has run the new agent for a minute."""
    upgrade, online = device.agent_upgrade, device.state is DeviceState.ONLINE
    generation, active, message = each.generation - 1, device.agent_version, ""
    if not each.generation:
        # Whether a wish of before the hub ended is this rollout's own.
        generation = device.wanted_upgrades
        active = upgrade.agent_version if upgrade else ""
    elif upgrade is not None and device.wanted_upgrades >= each.generation:
        if upgrade.state is AgentUpgradeState.FAILED:
            generation, message = each.generation, upgrade.message
        elif is_silent(upgrade, now):
            generation, message = each.generation, NOTHING_HEARD
        elif upgrade.state is AgentUpgradeState.SUCCEEDED:
            settled = upgrade.ended_at is None or now - upgrade.ended_at >= SETTLE
            generation = each.generation if settled else generation
            active = each.bundle
            message = "" if settled else "runs it, for less than a minute"
    return Report(
        device=device.name,
        online=online,
        # A later wish is one for this agent or a newer one: it takes nothing from this rollout.
        assigned_generation=each.generation or device.wanted_upgrades,
        assigned_bundle=active,
        reported_generation=generation,
        active_bundle=active,
        message=message,
        seen_at=device.seen_at,
        time_zone=device.time_zone,
    )
