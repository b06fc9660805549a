"""What the shadows of a rollout came to, in figures: devices tell it in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from milonga_hub.rollouts.models import RolloutDevice

# As the agent's Comparison says it (milonga_agent/comparing.py), of one that passed and of one that did not.
_COMPARED = re.compile(r"(\d+) requests compared,.*?(\d+(?:\.\d+)?)% of the answers differ", re.ASCII)
# More digits than any count of requests has.
_LONGEST = 400


@dataclass(frozen=True)
class Compared:
    """What one device has compared."""

    requests: int
    # Share of the answers.
    differing: float


@dataclass(frozen=True)
class Together:
    """What several devices have compared, and the one whose answers differ most."""

    devices: int
    requests: int
    # Of the device in the middle: one with many requests must not hide the others.
    differing: float
    most_differing: float
    most_at: str


def compared(device: RolloutDevice) -> Compared | None:
    """Return what the device's shadow came to; None where it has compared nothing, or says it in other words."""
    found = _COMPARED.search((device.shadow or device.message)[:_LONGEST])
    return None if found is None else Compared(int(found[1]), float(found[2]) / 100)


def together(devices: Iterable[RolloutDevice]) -> Together | None:
    """Return what they came to all together; None where nothing was compared."""
    figures = {device.device: seen for device in devices if (seen := compared(device)) is not None}
    if not figures:
        return None
    most = max(figures, key=lambda name: figures[name].differing)
    return Together(
        len(figures),
        sum(each.requests for each in figures.values()),
        median(each.differing for each in figures.values()),
        figures[most].differing,
        most,
    )
