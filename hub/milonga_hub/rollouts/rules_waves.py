"""Which devices take part in a rollout and in which wave, when it is planned and later. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from milonga_hub.devices.service import Standing
from milonga_hub.names import short_version
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, Wave


@dataclass(frozen=True)
class Entrant:
    """A device that the selector names: what it would serve, or why it does not take part."""

    device: str
    bundle: str = ""
    build: str = ""
    priority: int = 0
    # The newest that the hub gave out to it.
    generation: int = 0
    why_not: str = ""

    def member(self, wave: int) -> RolloutDevice:
        """Return the device as a member of the rollout."""
        left_out = {"wave": LEFT_OUT, "state": RolloutDeviceState.FAILED, "message": self.why_not}
        return RolloutDevice(
            device=self.device,
            bundle=self.bundle,
            build=self.build,
            priority=self.priority,
            since_generation=self.generation,
            **(left_out if self.why_not else {"wave": wave}),
        )


def why_pinned(device: Standing) -> str:
    """Return why a rollout leaves a device out that a person keeps on a version."""
    pinned = short_version(device.pinned_version)
    return f"it is pinned to {pinned}; let go of it: milonga devices unpin {device.name}"


def plan_waves(
    devices: Sequence[str],
    shares: Sequence[float],
    seed: str,
    sizes: Sequence[int] = (),
    canaries: Collection[str] = (),
    priorities: Mapping[str, int] | None = None,
) -> list[list[str]]:
    """Return the waves: each device once, no wave empty, the canaries first, then the sizes and about the shares asked for.

    Who comes first depends on the priority (0 before 1) and then on `seed`, so that it is not the same device that takes
    the risk every time; the same seed gives the same waves whatever the order of the devices.
    """
    ranks = priorities or {}
    order = sorted(
        set(devices), key=lambda name: (ranks.get(name, 0), hashlib.sha256(f"{seed}/{name}".encode()).digest())
    )
    waves = [[name for name in order if name in canaries]]
    rest = [name for name in order if name not in canaries]
    for size in sizes:
        waves.append(rest[:size])
        rest = rest[size:]
    taken, share = 0, 0.0
    for index, part in enumerate(shares):
        share += part
        end = len(rest) if index == len(shares) - 1 else round(share * len(rest))
        end = min(len(rest), max(end, 1))
        if end > taken:
            waves.append(rest[taken:end])
            taken = end
    return [wave for wave in waves if wave]


def joined(rollout: Rollout, entrants: Mapping[str, Entrant]) -> tuple[list[RolloutDevice], list[Wave]]:
    """Return devices and waves after some devices have come to match the selector, and others to do so no longer.

    Newcomers come into the last wave, or into one of their own where that has ended. Who was given a build stays what it is.
    """
    newcomers, devices = [], []
    for device in rollout.devices:
        entrant = entrants.get(device.device)
        if device.generation:
            devices.append(device)
        elif entrant is None:
            gone = Entrant(device.device, why_not="it does not match the selector any more")
            devices.append(device if device.wave == LEFT_OUT else gone.member(LEFT_OUT))
        elif entrant.why_not:
            devices.append(entrant.member(LEFT_OUT))
        elif device.wave == LEFT_OUT:
            newcomers.append(entrant)
        else:
            devices.append(device)
    known = {device.device for device in rollout.devices}
    devices += [each.member(LEFT_OUT) for name, each in entrants.items() if name not in known and each.why_not]
    newcomers += [each for name, each in entrants.items() if name not in known and not each.why_not]
    waves = rollout.waves
    if newcomers and (not waves or waves[-1].soaked_at is not None):
        waves = [*waves, Wave(index=len(waves))]
    devices += [each.member(waves[-1].index) for each in newcomers]
    return sorted(devices, key=lambda device: device.device), [_counted(wave, devices) for wave in waves]


def _counted(wave: Wave, devices: Sequence[RolloutDevice]) -> Wave:
    count = sum(device.wave == wave.index for device in devices)
    return wave if wave.device_count == count else wave.model_copy(update={"device_count": count})
