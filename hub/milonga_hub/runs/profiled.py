"""What is known of latencies before a search, and how good the models of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from milonga_hub.devices.models import Measurement

Row = dict[str, Any]


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

    def good(self, device_type: str) -> list[Row]:
        return [row for row in self.measured[device_type] if row["median_ms"] is not None]

    def elsewhere(self, device_type: str) -> list[dict[str, Any]]:
        """Return what all other types measured: those of one run teach each other, too."""
        known = {one["device_type"]: one["measurements"] for one in self.history}
        known |= {name: self.good(name) for name in self.measured}
        return [{"device_type": name, "measurements": rows} for name, rows in known.items() if name != device_type]

    def add(self, measured: Mapping[str, Sequence[Measurement]], subnets: Sequence[Row]) -> None:
        encodings = {one["subnet"]: one["encoding"] for one in subnets}
        for name, some in measured.items():
            self.measured.setdefault(name, []).extend(
                {
                    "subnet": one.subnet,
                    "encoding": encodings[one.subnet],
                    "precision": one.precision,
                    "median_ms": one.median_ms,
                    "peak_memory_bytes": one.peak_memory_bytes,
                }
                for one in some
            )
