"""Plan a rollout: which devices take part, with which build, in which wave, and why others do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from milonga_hub.builds.models import Build
from milonga_hub.builds.rules import objection_to
from milonga_hub.devices.models import DeviceState
from milonga_hub.devices.rules import attributes
from milonga_hub.devices.selectors import Selector, parse
from milonga_hub.devices.service import Standing
from milonga_hub.errors import FailedPrecondition
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.projects.rules import check_rollout
from milonga_hub.rollouts import rules_agents
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutState, Wave
from milonga_hub.rollouts.needs import Builds, Devices
from milonga_hub.rollouts.records import Claims, Records
from milonga_hub.rollouts.rolling_back import before, planned_back
from milonga_hub.rollouts.rules import opens_at
from milonga_hub.rollouts.rules_waves import Entrant, plan_waves, why_pinned

_NO_SHADOWS = "its agent has not said that it knows shadows; update it, or let it connect"


class Planner:
    def __init__(self, records: Records, devices: Devices, builds: Builds, clock: Callable[[], datetime]) -> None:
        self._records = records
        self._devices = devices
        self._builds = builds
        self._clock = clock

    def plan(self, model_version: str, project: str, selector: str, spec: RolloutSpec) -> Rollout:
        """Return the rollout before its first step. Raises FailedPrecondition where no device could take part."""
        id, created_at = self._records.next_id(project), self._records.later_than_all()
        check_rollout(spec)
        builds = self._builds.chosen(model_version)
        for build in builds.values():
            if why_not := objection_to(build):
                raise FailedPrecondition(
                    f"{build.name} may not go out: {why_not}; choose another (milonga build choose), or allow this one:"
                    f" milonga build override {build.name} --reason WHY"
                )
        devices = _matching(self._devices.standings(), selector)
        if not devices:
            raise FailedPrecondition(f"no device matches {selector!r}; see: milonga devices list")
        found = self._found(devices, builds, model_version, spec, {})
        if all(each.why_not for each in found):
            reasons = "; ".join(sorted({each.why_not for each in found}))
            raise FailedPrecondition(
                f"no device can take {model_version}: {reasons}; see: milonga build ls {model_version}"
            )
        planned = self._planned(id, spec, selector, devices, found)
        planned.project, planned.model_version, planned.created_at = project, model_version, created_at
        return planned

    def plan_agents(self, selector: str, spec: RolloutSpec) -> Rollout:
        """Return a rollout of the hub's agent before its first step. Raises FailedPrecondition where no device lacks it."""
        id, created_at = self._records.next_id_of_agents(), self._records.later_than_all()
        check_rollout(spec)
        rules_agents.check_spec(spec)
        devices = _matching(self._devices.standings(), selector)
        if not devices:
            raise FailedPrecondition(f"no device matches {selector!r}; see: milonga devices list")
        agent_version = self._devices.agent_release().version
        found = rules_agents.entrants(devices, agent_version, spec)
        if all(each.why_not for each in found):
            raise FailedPrecondition(f"all {len(found)} devices run agent {agent_version} already")
        planned = self._planned(id, spec, selector, devices, found)
        planned.agent_version, planned.created_at = agent_version, created_at
        return planned

    def _planned(
        self, id: str, spec: RolloutSpec, selector: str, devices: Sequence[Standing], found: Sequence[Entrant]
    ) -> Rollout:
        """Return a rollout of nothing yet, to those of the devices that can take part."""
        able = [each for each in found if not each.why_not]
        canary = parse(spec.canaries) if spec.canaries.strip() else None
        waves = plan_waves(
            [each.device for each in able],
            spec.waves,
            id,
            spec.wave_sizes,
            [d.name for d in devices if canary is not None and canary.matches(attributes(d))],
            {each.device: each.priority for each in able},
        )
        wave_of = {name: index for index, wave in enumerate(waves) for name in wave}
        return Rollout(
            id=id,
            project="",
            model_version="",
            state=RolloutState.AWAITING_APPROVAL if spec.approval else RolloutState.RUNNING,
            reason="begins when a person approves" if spec.approval else "",
            selector=selector,
            spec=spec,
            waves=[Wave(index=index, device_count=len(wave)) for index, wave in enumerate(waves)],
            devices=[each.member(wave_of.get(each.device, LEFT_OUT)) for each in found],
            state_at=self._clock(),
        )

    def rehearse(self, rollout: Rollout) -> Rollout:
        """Return the plan with what each device would wait for, for people to read."""
        known = {device.name: device for device in self._devices.standings()}
        rollout.devices = [
            each if each.wave == LEFT_OUT else each.model_copy(update={"message": self._wait(rollout, each, known)})
            for each in rollout.devices
        ]
        return rollout

    def _wait(self, rollout: Rollout, each: RolloutDevice, known: Mapping[str, Standing]) -> str:
        device = known[each.device]
        now = self._clock()
        parts = []
        if not rollout.agent_version and device.active_bundle == each.bundle:
            parts.append("serves it already")
        if device.state is not DeviceState.ONLINE:
            parts.append("off line")
        if (opens := opens_at(rollout.spec, device.time_zone, now)) > now:
            parts.append(f"its window opens {opens:%Y-%m-%d %H:%M} UTC")
        return "; ".join(parts)

    def back(self, rollout: Rollout) -> Rollout:
        """Return the rollout that takes this one back. Raises FailedPrecondition where nothing can."""
        if rollout.agent_version:
            raise FailedPrecondition("agents take no older release; one that does not start gives way by itself")
        newest = self._records.newest_id(rollout.project)
        if newest != rollout.id:
            raise FailedPrecondition(f"{newest} of {rollout.project} is newer than {rollout.id}; roll that one back")
        if rollout.rolls_back:
            raise FailedPrecondition(
                f"{rollout.id} took {rollout.rolls_back} back; send out what you want instead: milonga rollouts create"
            )
        fleet = {device.name: device for device in self._devices.standings()}
        id, created_at = self._records.next_id(rollout.project), self._records.later_than_all()
        return planned_back(rollout, id, before(rollout, self._records.earlier(rollout)), fleet, created_at)

    def entrants(self, rollout: Rollout, fleet: Sequence[Standing], claims: Claims) -> dict[str, Entrant]:
        """Return every device of the fleet that the rollout's selector names now."""
        assert rollout.selector is not None
        builds = self._builds.chosen(rollout.model_version)
        devices = _matching(fleet, rollout.selector)
        found = self._found(devices, builds, rollout.model_version, rollout.spec, claims)
        return {each.device: each for each in found}

    def _found(
        self,
        devices: Sequence[Standing],
        builds: Mapping[str, Build],
        model_version: str,
        spec: RolloutSpec,
        claims: Claims,
    ) -> list[Entrant]:
        priorities = [parse(selector) for selector in spec.priorities]
        found = [self._entrant(device, builds, model_version, priorities, claims) for device in devices]
        if spec.shadow is None:
            return found
        able = {device.name for device in devices if device.knows_shadows}
        return [each if each.why_not or each.device in able else replace(each, why_not=_NO_SHADOWS) for each in found]

    def _entrant(
        self,
        device: Standing,
        builds: Mapping[str, Build],
        model_version: str,
        priorities: Sequence[Selector],
        claims: Claims,
    ) -> Entrant:
        build = builds.get(device.device_type)
        seen = attributes(device) if priorities else {}
        ranks = (rank for rank, selector in enumerate(priorities) if selector.matches(seen))
        return Entrant(
            device=device.name,
            bundle=build.bundle if build else "",
            build=build.name if build else "",
            priority=next(ranks, len(priorities)),
            generation=device.assigned_generation,
            why_not=_why_not(device, build, model_version, claims),
        )


def _why_not(device: Standing, build: Build | None, model_version: str, claims: Claims) -> str:
    if device.pinned_version not in ("", model_version):
        return why_pinned(device)
    if build is None:
        return f"there is no chosen build for {device.device_type}"
    if why_not := objection_to(build):
        return f"{build.name} may not go out: {why_not}"
    if device.name in claims:
        return f"the newer rollout {claims[device.name]} took it"
    return ""


def _matching(fleet: Sequence[Standing], selector: str) -> list[Standing]:
    wanted = parse(selector)
    return [device for device in fleet if wanted.matches(attributes(device))] if wanted.conditions else [*fleet]
