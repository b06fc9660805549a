"""Turn a rollout's wishes for devices into their assignments. Safe to repeat, wherever the hub was cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milonga_hub.builds.models import Build
from milonga_hub.devices.service import Standing, Wanted
from milonga_hub.errors import FailedPrecondition
from milonga_hub.rollouts.models import Rollout, RolloutDevice
from milonga_hub.rollouts.needs import Builds, Devices


class Assigner:
    def __init__(self, devices: Devices, builds: Builds) -> None:
        self._devices = devices
        self._builds = builds

    def assign(
        self, rollout: Rollout, members: Sequence[RolloutDevice], fleet: Mapping[str, Standing]
    ) -> dict[str, int]:
        """Want devices to serve what the rollout has for them; return the generations of the wishes. All or none."""
        if rollout.agent_version:
            return self._devices.upgrade_all([each.device for each in members])
        builds = {bundle: self._build(bundle) for bundle in {each.bundle for each in members}}
        return self._devices.assign_all([_wanted(rollout, fleet[each.device], builds[each.bundle]) for each in members])

    def _build(self, bundle: str) -> Build:
        build = self._builds.by_bundle(bundle)
        if build is None:
            raise FailedPrecondition(f"the build with bundle {bundle} is gone; start another rollout")
        return build


def _wanted(rollout: Rollout, device: Standing, build: Build) -> Wanted:
    return Wanted(
        device.name,
        build.bundle,
        build.files,
        # Each device goes back to a version of its own.
        build.model_version if rollout.rolls_back else rollout.model_version,
        rollout.project,
        f"{build.engine}/{build.precision}",
        # Builds that device types share were measured on one of them, which need not be this one.
        build.measured_ms or 0.0 if build.device_type == device.device_type else 0.0,
        rollout.spec.shadow,
        again=True,
    )
