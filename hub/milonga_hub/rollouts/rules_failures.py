"""Whether too many devices of a wave failed, and which of them said what. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from milonga_hub.rollouts.models import Rollout, RolloutDevice, RolloutDeviceState

# Devices, and causes, that a sentence tells; the page tells all.
_NAMED = 3


def too_many_failures(rollout: Rollout) -> str:
    """Return which wave has failed and why, "" while none has.

    Ask before newcomers join: they would make a wave larger that has failed already, and its share of failures smaller.
    """
    for wave in rollout.waves:
        if wave.device_count and wave.failed_count / wave.device_count > rollout.spec.max_failure_ratio:
            failed = [d for d in rollout.devices if d.wave == wave.index and d.state is RolloutDeviceState.FAILED]
            return (
                f"wave {wave.index + 1}: {wave.failed_count} of {wave.device_count} devices failed ({_causes(failed)})"
            )
    return ""


def _causes(failed: Sequence[RolloutDevice]) -> str:
    """Return why devices failed, what many of them said only once, and first what most said."""
    alike: dict[str, list[RolloutDevice]] = {}
    for device in failed:
        why = f"{device.step.lower()}: {device.message}" if device.step else device.message
        alike.setdefault(why, []).append(device)
    causes = sorted(alike.items(), key=lambda each: -len(each[1]))
    said = "; ".join(f"{named(devices)}: {why}" for why, devices in causes[:_NAMED])
    more = sum(len(devices) for _, devices in causes[_NAMED:])
    return f"{said}; and {more} more" if more else said


def named(devices: Sequence[RolloutDevice]) -> str:
    """Return the names of the first devices, and how many more there are."""
    shown = ", ".join(device.device for device in devices[:_NAMED])
    return f"{shown} and {len(devices) - _NAMED} more" if len(devices) > _NAMED else shown
