"""What the machine itself went through in a window, where its sensors tell: how much power it drew, and whether it was throttled."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from milonga_agent.sensors import ROOT, Reading, power_watts, read_sensors, tells_throttling

# log2 of watts, an eighth of an octave each: a quarter of a watt to a kilowatt, 9 % apart.
_LOW, _HIGH, _BINS = -2.0, 10.0, 96


class Machine:
    """Looks at the sensors once a window. Histograms add up over windows and devices, as those of pictures do."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._before = self._read()

    def take(self) -> dict[str, Any]:
        """Return histograms of one entry each by name, "power" and "throttled"; those that this machine has no sensor for are missing."""
        now, before = self._read(), self._before
        self._before = now
        throttled = None
        if now is not None and before is not None:
            throttled = now.limited or now.throttle_count > before.throttle_count
        return told(power_watts(self._root), throttled)

    def _read(self) -> Reading | None:
        return read_sensors(root=self._root) if tells_throttling(self._root) else None


def told(watts: float | None, throttled: bool | None) -> dict[str, Any]:
    """Return the histograms of one window; what is not known has none."""
    found: dict[str, Any] = {}
    if watts is not None:
        found["power"] = {"low": _LOW, "high": _HIGH, "counts": _one(_BINS, _place(watts))}
    if throttled is not None:
        found["throttled"] = {"low": 0.0, "high": 2.0, "counts": _one(2, int(throttled))}
    return found


def _place(watts: float) -> int:
    place = math.floor((math.log2(watts) - _LOW) / (_HIGH - _LOW) * _BINS)
    return min(max(place, 0), _BINS - 1)


def _one(bins: int, place: int) -> list[int]:
    return [int(index == place) for index in range(bins)]
