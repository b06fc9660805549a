"""Builds: a model version compiled for one target."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from milonga_compiler.bundle import BESIDE_THE_MODEL
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.devices.models import File
from milonga_hub.tasks import Task


class BuildState(StrEnum):
    BUILDING = "BUILDING"
    BUILT = "BUILT"
    VERIFIED = "VERIFIED"
    REJECTED = "REJECTED"


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

    @property
    def model_bytes(self) -> int:
        """Return the size of the files that the engine loads: the rest describes and proves them."""
        return sum(file.size_bytes for file in self.files if file.path not in BESIDE_THE_MODEL)
