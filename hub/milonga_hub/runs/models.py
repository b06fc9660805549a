"""Runs, their stages, and the candidates that a search found."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.models.models import ImportedModel
from milonga_hub.tasks import Task


class RunState(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    # Started by a policy; begins when a person approves.
    AWAITING_APPROVAL = "AWAITING_APPROVAL"


class StageState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"


class Trigger(StrEnum):
    APPLY = "APPLY"
    MANUAL = "MANUAL"
    DRIFT = "DRIFT"
    NEW_LABELS = "NEW_LABELS"
    SCHEDULE = "SCHEDULE"
    ACCURACY = "ACCURACY"
    IMPORT = "IMPORT"


class ComparedGroup(BaseModel):
    name: str
    count: int = 0
    champion_accuracy: float = 0.0
    challenger_accuracy: float = 0.0
    gained: int = 0
    lost: int = 0


class Comparison(BaseModel):
    """A new version against the one that a device type used: what made it better or not."""

    device_type: str
    champion: str = ""
    challenger: str = ""
    better: bool = False
    p_value: float = 1.0
    reason: str = ""
    groups: list[ComparedGroup] = []
    classes: list[ComparedGroup] = []


# With training.finetune_epochs, FINETUNE comes after "search".
FINETUNE = "finetune"
STAGES = ("prepare", "train", "profile", "search", "build", "compare", "rollout")
# A baseline is chosen by latency, which needs no weights, and trained then.
BASELINE_STAGES = ("prepare", "profile", "search", "train", "build", "compare", "rollout")
# A model that was trained elsewhere goes out when a person says so.
IMPORT_STAGES = ("prepare", "build")
# What a run has decided, in its folder.
PLAN = "plan.json"


class Stage(BaseModel):
    name: str
    state: StageState = StageState.PENDING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: float = 0.0
    message: str = ""
    metrics: dict[str, float] = {}
    attempts: int = 0
    where: str = ""


class RunView(SQLModel):
    name: str = Field(primary_key=True)
    project: str = Field(index=True)
    number: int
    state: RunState = RunState.QUEUED
    trigger: Trigger = Trigger.MANUAL
    reason: str = ""
    stages: list[Stage] = Field(
        default_factory=lambda: [Stage(name=name) for name in STAGES], sa_type=json_of(list[Stage])
    )
    error: str = ""
    dataset_version: str = ""
    base_run: str = ""
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    ended_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    outcome: str = ""
    task: Task = Task.CLASSIFICATION
    comparisons: list[Comparison] = Field(default=[], sa_type=json_of(list[Comparison]))


class Run(RunView, table=True):
    request_id: str = Field(default="", index=True)
    # The project's spec when the run started, as JSON: later changes do not touch a run.
    spec_json: str = ""
    # What was sent, of a run that trains nothing.
    imported: ImportedModel | None = Field(default=None, sa_type=json_of(ImportedModel | None))
    # Points of the training curve: [{"epoch", "loss", "accuracy_largest", "accuracy_smallest"}].
    history: list[dict[str, float]] = Field(default=[], sa_type=json_of(list[dict[str, float]]))


class DueRun(BaseModel):
    """A run that a policy calls for and that has not begun."""

    trigger: Trigger
    reason: str
    # Empty where it begins at the hub's next look.
    held_back_by: str = ""
    # None where no clock tells.
    held_back_until: datetime | None = None


class Candidate(SQLModel, table=True):
    # "{run}|{device_type}|{subnet}|{precision}"
    key: str = Field(primary_key=True)
    run: str = Field(index=True)
    device_type: str
    subnet: str
    precision: str = "fp32"
    description: str = ""
    predicted_accuracy: float | None = None
    accuracy: float | None = None
    predicted_ms: float | None = None
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None
    measured_ms: float | None = None
    macs: int = 0
    params: int = 0
    on_front: bool = False
    chosen: bool = False
    note: str = ""
    # The subnet as SVG.
    drawing: str = ""
    # What it takes of each elastic dimension that has an effect on it.
    choices: dict[str, str] = Field(default={}, sa_type=json_of(dict[str, str]))
    # As expected before it was built.
    model_bytes: int = 0
