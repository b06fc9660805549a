"""What is known of a rollout's devices, read once for a step: nothing that the step does changes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from milonga_hub.devices.models import DeviceState
from milonga_hub.devices.service import LastStep, Standing
from milonga_hub.rollouts import rules_agents
from milonga_hub.rollouts.models import Rollout, RolloutDevice, RolloutDeviceState, Step
from milonga_hub.rollouts.needs import Devices
from milonga_hub.rollouts.rules import Report

_NO_STEP = LastStep("", "", "")


class Reporter:
    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    def reports(self, rollout: Rollout, fleet: Mapping[str, Standing], now: datetime) -> dict[str, Report]:
        if rollout.agent_version:
            known = [each for each in rollout.devices if each.device in fleet]
            return {each.device: rules_agents.report(each, fleet[each.device], now) for each in known}
        under_way = {
            each.device: each.generation
            for each in rollout.devices
            if each.generation and each.state is not RolloutDeviceState.SUCCEEDED
        }
        steps = self._devices.last_steps(under_way)
        return {
            each.device: self._report(each, fleet[each.device], steps.get(each.device, _NO_STEP))
            for each in rollout.devices
            if each.device in fleet
        }

    def _report(self, each: RolloutDevice, device: Standing, last: LastStep) -> Report:
        wish = None
        if not each.generation and device.assigned_generation > each.since_generation:
            wish = self._devices.assignment(device.name)
        return Report(
            device=device.name,
            online=device.state is DeviceState.ONLINE,
            assigned_generation=device.assigned_generation,
            assigned_bundle=wish.bundle if wish else "",
            assigned_project=wish.project if wish else "",
            reported_generation=device.reported_generation,
            active_bundle=device.active_bundle,
            step=Step(last.step) if last.step in Step.__members__ else None,
            message=last.message,
            shadow=last.shadow,
            seen_at=device.seen_at,
            time_zone=device.time_zone,
        )
