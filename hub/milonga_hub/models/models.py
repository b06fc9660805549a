"""The model registry: versions are immutable once made."""

from __future__ import annotations

from datetime import datetime

from milonga.inputs import Input, Resize
from pydantic import BaseModel
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.tasks import Task


class Model(SQLModel, table=True):
    name: str = Field(primary_key=True)
    latest_version: int = 0


class ImportedModel(BaseModel):
    """A network that was trained elsewhere, as the hub took it."""

    file_name: str
    # Of the blob that the file is kept as.
    digest: str
    by: str
    # Blob of the network as it is built: see milonga_compiler.importing.
    network: str
    classes: list[str]
    size_px: int
    # By channel, on the scale 0 to 1.
    mean: list[float]
    std: list[float]
    resize: str
    notes: list[str] = []
    task: Task = Task.CLASSIFICATION
    # What builds are judged and calibrated on; "": nothing.
    dataset: str = ""
    # A detector that tells each object once.
    end_to_end: bool = False

    @property
    def input(self) -> Input:
        """Return how devices make its inputs of pictures."""
        return Input(self.size_px, self.mean, self.std, Resize(self.resize))


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
    # None of versions that were trained here.
    imported: ImportedModel | None = Field(default=None, sa_type=json_of(ImportedModel | None))
