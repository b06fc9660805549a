"""What is said of builds. Without tables: jobs read it too, and need not wait for what stores rows."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel


class BuildState(StrEnum):
    BUILDING = "BUILDING"
    BUILT = "BUILT"
    VERIFIED = "VERIFIED"
    REJECTED = "REJECTED"


class Gate(BaseModel):
    """A figure and the most that it may be; None where it is not known, or where there is no limit."""

    name: str
    unit: str = ""
    found: float | None = None
    allowed: float | None = None
    passed: bool = False


class BuildOverride(BaseModel):
    """Why a build may be used that is not VERIFIED, and who says so."""

    by: str
    at: datetime
    reason: str


class TuningSite(StrEnum):
    """Where kernels are timed while they are tuned."""

    HUB = "HUB"
    DEVICE = "DEVICE"


class BuildTuning(BaseModel):
    """How a build's kernels are tuned first, and what that came to; fields are those of the protocol's Tuning."""

    site: TuningSite
    minutes: float
    wanted_device: str = ""
    device: str = ""
    seconds: float = 0.0
    trials: int = 0
    failed: int = 0
    kernels: int = 0
    found: int = 0
    tuned: int = 0
    untuned_ms: float = 0.0
    begun_ms: float = 0.0
    ms: float = 0.0
    ended: str = ""

    @property
    def gain(self) -> float | None:
        """Return how many times as fast the kernels are, together, as when this tuning began."""
        return self.begun_ms / self.ms if self.ms else None
