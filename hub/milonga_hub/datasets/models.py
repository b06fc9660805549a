"""Data sets as they are stored and shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel
from sqlmodel import Field, SQLModel

from milonga_hub.datasets.values import Layout
from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.tasks import Task


class Dataset(SQLModel, table=True):
    name: str = Field(primary_key=True)
    latest_version: int = 0
    classes: list[str] = Field(default=[], sa_type=json_of(list[str]))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    task: Task = Task.CLASSIFICATION


# What jobs train on, inside of a run's folder: see training_data.py.
TRAINING_FILES: Mapping[Task, str] = {Task.CLASSIFICATION: "data.npz", Task.DETECTION: "data/data.yaml"}


class RejectedFile(BaseModel):
    path: str
    reason: str


class DatasetVersionView(SQLModel):
    name: str = Field(primary_key=True)
    dataset: str = Field(index=True)
    number: int
    digest: str
    classes: list[str] = Field(default=[], sa_type=json_of(list[str]))
    train_count: int = 0
    validation_count: int = 0
    class_counts: dict[str, int] = Field(default={}, sa_type=json_of(dict[str, int]))
    added_count: int = 0
    duplicate_count: int = 0
    rejected: list[RejectedFile] = Field(default=[], sa_type=json_of(list[RejectedFile]))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    task: Task = Task.CLASSIFICATION
    # What is odd and does no harm, in whole sentences.
    notes: list[str] = Field(default=[], sa_type=json_of(list[str]))
    # How its pictures lay in what was sent; None of labelled samples, and of versions from before this was kept.
    layout: Layout | None = None


class DatasetVersion(DatasetVersionView, table=True):
    __tablename__ = "dataset_version"
    # Blob: JSON lines of {"digest", "label", "split", "added_in", "path", "boxes"}, sorted by digest.
    listing: str = ""
    request_id: str = Field(default="", index=True)


class DatasetImport(SQLModel, table=True):
    """What an import that named its request was answered, also where it made no new version."""

    __tablename__ = "dataset_import"
    dataset: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    version: str
