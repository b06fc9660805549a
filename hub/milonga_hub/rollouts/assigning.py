"""Turn a rollout's wish for a device into its assignment. Safe to repeat, wherever the hub was cut off."""

from __future__ import annotations

from milonga_hub.devices.models import Assignment, Device
from milonga_hub.errors import FailedPrecondition
from milonga_hub.rollouts.models import Rollout, RolloutDevice
from milonga_hub.rollouts.needs import Builds, Devices


class Assigner:
    def __init__(self, devices: Devices, builds: Builds) -> None:
        self._devices = devices
        self._builds = builds

    def assign(self, rollout: Rollout, each: RolloutDevice) -> int:
        """Want the device to serve what the rollout has for it; return the generation of the wish."""
        build = self._builds.by_bundle(each.bundle)
        if build is None:
            raise FailedPrecondition(f"the build with bundle {each.bundle} is gone; start another rollout")
        device = self._devices.get(each.device)
        newest = self._devices.assignment(device.name)
        if newest is not None and newest.bundle == each.bundle and _gave_up(device, newest):
            # The device has ended this wish in failure and would not look at it again. Wishing first for what it has
            # gives the old wish a new number, without changing what it serves.
            self._wish_for_what_it_has(device)
        engine = f"{build.engine}/{build.precision}"
        # Builds that device types share were measured on one of them, which need not be this one.
        expected_ms = build.measured_ms or 0.0 if build.device_type == device.device_type else 0.0
        return self._devices.assign(
            device.name,
            build.bundle,
            build.files,
            rollout.model_version,
            rollout.project,
            engine,
            expected_ms,
            rollout.spec.shadow,
        )

    def _wish_for_what_it_has(self, device: Device) -> None:
        had = self._builds.by_bundle(device.active_bundle) if device.active_bundle else None
        if had is not None:
            engine = f"{had.engine}/{had.precision}"
            self._devices.assign(device.name, had.bundle, had.files, had.model_version, "", engine)
        elif not device.active_bundle:
            self._devices.assign(device.name, "", [], "", "", "")


def _gave_up(device: Device, wish: Assignment) -> bool:
    return device.reported_generation >= wish.generation and device.active_bundle != wish.bundle
