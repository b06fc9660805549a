"""The model registry: versions are immutable once made."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.tasks import Task


class Model(SQLModel, table=True):
    name: str = Field(primary_key=True)
    latest_version: int = 0


class ModelVersion(SQLModel, table=True):
    __tablename__ = "model_version"
    name: str = Field(primary_key=True)
    model: str = Field(index=True)
    number: int
    run: str = Field(default="", index=True)
    dataset_version: str = ""
    # Digest of the supernet's checkpoint blob.
    supernet: str = ""
    subnets: dict[str, str] = Field(default={}, sa_type=json_of(dict[str, str]))
    accuracies: dict[str, float] = Field(default={}, sa_type=json_of(dict[str, float]))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    task: Task = Task.CLASSIFICATION
    # Blob of the subnet's file as its family's own tools load it, by device type.
    checkpoints: dict[str, str] = Field(default={}, sa_type=json_of(dict[str, str]))
