"""What users write of a simulated fleet: its machines, and what goes wrong with them when."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Bound
from pydantic import model_validator

from milonga_hub.documents import Kind, Spec
from milonga_hub.errors import NotFound

_FOLDER = Path(__file__).parent / "profiles"

# What each fault takes beside share and times.
_OWN: dict[str, tuple[str, ...]] = {
    "offline": (),
    "reconnect": (),
    "slow": ("factor",),
    "throttled": ("factor",),
    "failing": ("step", "message"),
    "clock": ("hours",),
    "flood": ("messages_per_second",),
    "drift": ("shift",),
    "upgrade": ("ends", "message"),
}
_ANY = ("fault", "share", "at_seconds", "for_seconds", "every_seconds")


class MachineSpec(Spec):
    """One kind of machine. `latency_ms` is its time for a network of a megabyte, from which others are worked out."""

    # An entry of fleet_configs/device_types.
    type: str
    share: float = Bound(default=1.0, gt=0)
    latency_ms: float = Bound(default=20.0, gt=0)
    # What it draws at rest, where it has a sensor for that.
    power_watts: float | None = Bound(default=None, gt=0)
    labels: dict[str, str] = Bound(default={})


class FaultSpec(Spec):
    """What goes wrong for a share of the devices; the same ones each time, chosen by the seed."""

    fault: Literal["offline", "reconnect", "slow", "failing", "clock", "flood", "drift", "throttled", "upgrade"]
    share: float = Bound(default=1.0, gt=0, le=1)
    at_seconds: float = Bound(default=0.0, ge=0)
    # None: until the end.
    for_seconds: float | None = Bound(default=None, gt=0)
    # None: once.
    every_seconds: float | None = Bound(default=None, gt=0)
    factor: float = Bound(default=5.0, gt=0)
    step: Literal["DOWNLOAD", "VERIFY", "INSTALL", "BUILD", "PROBE", "SHADOW", "ACTIVATE", "COMMIT", "ROLL_BACK"] = (
        "PROBE"
    )
    message: str = ""
    hours: float = 0.0
    messages_per_second: float = Bound(default=10.0, gt=0, le=1000)
    shift: float = Bound(default=0.25, ge=-1, le=1)
    ends: Literal["FALLS_BACK", "REFUSED", "SILENT"] = "FALLS_BACK"

    @model_validator(mode="after")
    def _fits(self) -> FaultSpec:
        own = _OWN[self.fault]
        foreign = sorted(self.model_fields_set - set(own) - set(_ANY))
        if foreign:
            takes = ", ".join((*own, *_ANY[1:]))
            raise ValueError(f"{self.fault} takes no {', '.join(foreign)}; it takes {takes}")
        if self.fault == "clock" and not self.hours:
            raise ValueError("clock needs hours: how far the clock is off, negative for slow")
        if self.fault == "reconnect" and self.for_seconds is not None:
            raise ValueError("reconnect is over at once; for a while without connections take offline")
        if self.every_seconds is not None:
            lasts = 0.0 if self.fault == "reconnect" else self.for_seconds
            if lasts is None or lasts >= self.every_seconds:
                raise ValueError("every_seconds must be longer than for_seconds, which must be given with it")
        return self


class SimulationSpec(Spec):
    """A fleet and its fate."""

    machines: list[MachineSpec] = Bound(min_length=1)
    faults: list[FaultSpec] = Bound(default=[])
    joins_per_second: float = Bound(default=50.0, gt=0)
    # How long each step of an assignment takes, the download apart, and a measurement.
    step_seconds: float = Bound(default=0.5, ge=0)
    # How long an upgrade of the agent takes, the download apart, and how long one that does not start takes to give way.
    upgrade_seconds: float = Bound(default=10.0, ge=0)
    requests_per_second: float = Bound(default=2.0, ge=0)
    error_ratio: float = Bound(default=0.001, ge=0, le=1)
    # Share of the devices that keep a connection for telemetry.
    telemetry_share: float = Bound(default=1.0, ge=0, le=1)

    def message(self) -> dict[str, Any]:
        """Return what the simulating process is told of everything but the machines."""
        said = self.model_dump(exclude={"machines", "faults"})
        faults = [{"kind": each.fault, **each.model_dump(exclude={"fault"})} for each in self.faults]
        return {**said, "faults": faults}


FILE = Kind("Simulation", SimulationSpec, "fleet_configs/simulations")


def load(profile: str) -> tuple[str, SimulationSpec]:
    """Return name and spec of a file, or of a profile that comes with the hub. Raises NotFound or InvalidInput."""
    if profile.endswith((".yaml", ".yml")):
        return FILE.load(Path(profile))
    path = _FOLDER / f"{profile}.yaml"
    if Path(profile).name != profile or not path.exists():
        raise NotFound(f"no profile {profile!r}; name a file.yaml, or one of: {', '.join(shipped())}")
    return FILE.load(path)


def shipped() -> list[str]:
    """Return the names of the profiles that come with the hub."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))
