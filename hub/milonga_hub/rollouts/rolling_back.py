"""Take a rollout back, by one that gives each device what it had before (docs/adr/0044). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from milonga_hub.devices.service import Standing
from milonga_hub.errors import FailedPrecondition
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, Wave
from milonga_hub.rollouts.rules_waves import Entrant, why_pinned

# All at once; whatever becomes of one device, the others go back.
_SPEC = RolloutSpec(waves=[1.0], soak_seconds=0.0, max_failure_ratio=1.0, late_after_seconds=0.0)


@dataclass(frozen=True)
class Before:
    """What a device had of the project before a rollout."""

    model_version: str
    bundle: str
    build: str


def given(rollout: Rollout) -> dict[str, RolloutDevice]:
    """Return the devices that were given the rollout's version, by name."""
    return {each.device: each for each in rollout.devices if each.generation and each.wave != LEFT_OUT}


def before(rollout: Rollout, earlier: Iterable[Rollout]) -> dict[str, Before]:
    """Return what those devices had: of the earlier rollouts, the newest first, what the last one brought that succeeded there."""
    wanted, found = given(rollout), dict[str, Before]()
    for each in earlier:
        if len(found) == len(wanted):
            break
        for device in each.devices:
            new = wanted.get(device.device)
            if new is None or device.device in found or device.bundle == new.bundle:
                continue
            if device.wave != LEFT_OUT and device.state is RolloutDeviceState.SUCCEEDED:
                found[device.device] = Before(each.model_version, device.bundle, device.build)
    return found


def planned_back(
    rollout: Rollout, id: str, had: Mapping[str, Before], fleet: Mapping[str, Standing], created_at: datetime
) -> Rollout:
    """Return the rollout that takes this one back. Raises FailedPrecondition where no device has anything to go back to."""
    found = [_entrant(rollout, fleet[name], had.get(name)) for name in given(rollout) if name in fleet]
    able = [each for each in found if not each.why_not]
    if not able:
        raise FailedPrecondition(f"no device of {rollout.id} has a version to go back to")
    versions = Counter(had[each.device].model_version for each in able)
    return Rollout(
        id=id,
        project=rollout.project,
        # Of most devices: their builds say which one each goes back to.
        model_version=versions.most_common(1)[0][0],
        # Nobody joins it: newcomers get what the newest rollout brings that was not taken back.
        selector=None,
        spec=_SPEC,
        waves=[Wave(index=0, device_count=len(able))],
        devices=sorted((each.member(0) for each in found), key=lambda device: device.device),
        created_at=created_at,
        rolls_back=rollout.id,
    )


def _entrant(rollout: Rollout, device: Standing, had: Before | None) -> Entrant:
    why_not = ""
    if device.pinned_version == rollout.model_version:
        why_not = why_pinned(device)
    elif had is None:
        why_not = f"it had no version of {rollout.project} before, and keeps this one"
    return Entrant(
        device.name,
        bundle=had.bundle if had else "",
        build=had.build if had else "",
        generation=device.assigned_generation,
        why_not=why_not,
    )
