"""What is known of latencies before a search, and how good the models of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from milonga_hub.devices.models import Measurement
from milonga_hub.runs import rules_reuse
from milonga_hub.runs.rules_reuse import Row


class Quality(BaseModel):
    """How good the latency model of one device type is, in its worst precision."""

    held_out_relative_error: float
    trusted: bool
    # Measurements that were asked for beyond the first.
    further: int

    @classmethod
    def of(cls, precisions: Mapping[str, dict[str, Any]], further: int) -> Quality:
        worst = max(precisions.values(), key=lambda one: (not one["trusted"], one["held_out_relative_error"]))
        return cls(**{**worst, "further": further})


class Earlier(BaseModel):
    """What earlier runs measured on one device type, and whether it still holds."""

    count: int
    # How many of them were taken again, and how far those differ, relative; None where the device failed at one.
    again: int
    change: float | None

    @property
    def holds(self) -> bool:
        return self.change is not None and self.change <= rules_reuse.MOST_CHANGE


class Profiled(BaseModel):
    """What is known of latencies when the search begins; kept, so that a run that is resumed searches from the same."""

    # By device type: {"subnet", "encoding", "precision", "median_ms", "peak_memory_bytes"}, median_ms None where the device
    # failed, peak_memory_bytes 0 where it did not tell.
    measured: dict[str, list[Row]] = {}
    # What device types outside the run measured before: {"device_type", "measurements"}.
    history: list[dict[str, Any]]
    # File of what was counted of the space.
    costs: str
    quality: dict[str, Quality] = {}
    # By device type; those of which too little was measured before are missing.
    earlier: dict[str, Earlier] = {}

    @property
    def taken_over(self) -> int:
        """Return how many measurements earlier runs took."""
        return sum(one.count - one.again for one in self.earlier.values() if one.holds)

    def holds(self, device_type: str) -> bool:
        """Return whether what earlier runs measured on it is taken over."""
        return device_type in self.earlier and self.earlier[device_type].holds

    def judge_earlier(self, before: Mapping[str, Sequence[Row]]) -> None:
        """Take over what earlier runs measured, by type, where what was taken again says that it holds; where it does not, keep it
        as that of another device.
        """
        for name, rows in before.items():
            again = self.measured[name]
            self.earlier[name] = Earlier(count=len(rows), again=len(again), change=rules_reuse.change(rows, again))
            if self.holds(name):
                self.measured[name] = rules_reuse.together(rows, again)
            else:
                # What the device failed at is asked again.
                self.measured[name] = self.good(name)
                self.history.append({"device_type": f"{name} in earlier runs", "measurements": list(rows)})

    def good(self, device_type: str) -> list[Row]:
        return [row for row in self.measured[device_type] if row["median_ms"] is not None]

    def elsewhere(self, device_type: str) -> list[dict[str, Any]]:
        """Return what all other types measured: those of one run teach each other, too."""
        known = {one["device_type"]: one["measurements"] for one in self.history}
        known |= {name: self.good(name) for name in self.measured}
        return [{"device_type": name, "measurements": rows} for name, rows in known.items() if name != device_type]

    def add(self, measured: Mapping[str, Sequence[Measurement]], subnets: Sequence[Row]) -> None:
        """Add what was measured of subnets, by device type; what is there already stays as it is."""
        encodings = {one["subnet"]: one["encoding"] for one in subnets}
        for name, some in measured.items():
            rows = self.measured.setdefault(name, [])
            there = {(row["subnet"], row["precision"]) for row in rows}
            rows.extend(
                {
                    "subnet": one.subnet,
                    "encoding": encodings[one.subnet],
                    "precision": one.precision,
                    "median_ms": one.median_ms,
                    "peak_memory_bytes": one.peak_memory_bytes,
                }
                for one in some
                if (one.subnet, one.precision) not in there
            )
