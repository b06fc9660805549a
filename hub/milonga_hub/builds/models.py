"""Builds: a model version compiled for one target."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from milonga_compiler.bundle import BESIDE_THE_MODEL
from milonga_compiler.deferred import MAX_SECONDS
from milonga_compiler.engines import ENGINES, BuildSite
from sqlmodel import Field, SQLModel

from milonga_hub.builds.values import BuildOverride, BuildState, BuildTuning, Gate, TuningSite
from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.devices.models import File
from milonga_hub.runs.models import Stage
from milonga_hub.tasks import Task

__all__ = ["Build", "BuildOrder", "BuildOverride", "BuildState", "BuildTuning", "Gate", "TuningSite"]


class Build(SQLModel, table=True):
    name: str = Field(primary_key=True)
    model_version: str = Field(index=True)
    device_type: str
    engine: str
    precision: str
    state: BuildState = BuildState.BUILDING
    reason: str = ""
    subnet: str = ""
    bundle: str = Field(default="", index=True)
    files: list[File] = Field(default=[], sa_type=json_of(list[File]))
    size_bytes: int = 0
    accuracy: float | None = None
    subnet_accuracy: float | None = None
    max_abs_error: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    chosen: bool = False
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    task: Task = Task.CLASSIFICATION
    measured_half_width_ms: float | None = None
    measured_on: str = ""
    measuring_error: str = ""
    # The most that the process took which measured it; None where the device did not tell.
    measured_memory_bytes: int | None = None
    gates: list[Gate] = Field(default=[], sa_type=json_of(list[Gate]))
    # Why it was or was not taken from among the builds of its device type.
    decision: str = ""
    override: BuildOverride | None = Field(default=None, sa_type=json_of(BuildOverride | None))
    # Digest of what was done and what the engine printed.
    log: str = ""
    in_progress: bool = Field(default=False, index=True)
    # When it came into its state; None where that was before this was kept.
    state_at: datetime | None = Field(default_factory=utc_now, sa_type=UTC_TIME, index=True)
    # Of the last time that it was built outside a run.
    stages: list[Stage] = Field(default=[], sa_type=json_of(list[Stage]))
    # None where its kernels were not tuned before it was built.
    tuning: BuildTuning | None = Field(default=None, sa_type=json_of(BuildTuning | None))
    # Of the last time that it was built outside a run: as it was asked for.
    wanted_tuning: BuildTuning | None = Field(default=None, sa_type=json_of(BuildTuning | None))

    @property
    def made_on_devices(self) -> bool:
        """Return whether each device makes it for itself."""
        known = ENGINES.get(self.engine)
        return known is not None and known.build_site is BuildSite.DEVICE

    @property
    def building_seconds(self) -> float:
        """Return how long a device may take to make it before it measures."""
        return MAX_SECONDS if self.made_on_devices else 0.0

    @property
    def model_bytes(self) -> int:
        """Return the size of the files that the engine loads: the rest describes and proves them."""
        return sum(file.size_bytes for file in self.files if file.path not in BESIDE_THE_MODEL)

    @property
    def target(self) -> str:
        return f"{self.engine}/{self.precision}"

    @property
    def disagreement(self) -> float | None:
        """Return how many in a hundred of its answers on validation pictures are not those of its network."""
        return next((gate.found for gate in self.gates if gate.name == "disagreement"), None)

    @property
    def lost_points(self) -> float | None:
        """Return the accuracy lost against the subnet, in percentage points; None where the build did not run."""
        if self.accuracy is None or self.subnet_accuracy is None:
            return None
        return (self.subnet_accuracy - self.accuracy) * 100.0


class BuildOrder(SQLModel, table=True):
    """What a run asked its build job for: a subnet and its evidence, from which other targets are built later."""

    __tablename__ = "build_order"
    # "{model_version}|{device_type}"
    key: str = Field(primary_key=True)
    spec: dict[str, Any] = Field(default={}, sa_type=json_of(dict[str, Any]))
    latency_ms: float | None = None
    model_bytes: int | None = None
    memory_bytes: int | None = None
    predicted_ms: float | None = None
