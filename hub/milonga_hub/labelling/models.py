"""Pictures that devices sent to be labelled, as they are stored and shown."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel
from sqlmodel import Field, Index, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now


class SampleReason(StrEnum):
    """Why a device chose a picture; only what it chose at RANDOM tells how often it is right."""

    LEAST_CONFIDENT = "LEAST_CONFIDENT"
    NOVEL = "NOVEL"
    RANDOM = "RANDOM"


class SampleState(StrEnum):
    WAITING = "WAITING"
    LABELLED = "LABELLED"
    SKIPPED = "SKIPPED"
    REFUSED = "REFUSED"
    # Two people said different things of it; somebody decides.
    CONFLICT = "CONFLICT"


class SampleBox(BaseModel):
    """One object: its class, and its box as centre, width and height from 0 to 1."""

    label: str
    x: float
    y: float
    width: float
    height: float
    score: float = 0.0


class Opinion(BaseModel):
    """What one person said that a picture shows, before they knew what another one says."""

    by: str
    label: str = ""
    boxes: list[SampleBox] = []
    # None of those from before this was kept.
    at: datetime | None = None


class Decision(BaseModel):
    """What somebody made of a picture: labelled, skipped, or to be asked about again."""

    state: SampleState
    by: str
    at: datetime
    label: str = ""
    boxes: list[SampleBox] = []


class SampleView(SQLModel):
    name: str = Field(primary_key=True)
    project: str
    digest: str
    device: str
    device_type: str = ""
    model_version: str = ""
    reason: SampleReason = SampleReason.RANDOM
    predicted: str = ""
    predicted_boxes: list[SampleBox] = Field(default=[], sa_type=json_of(list[SampleBox]))
    confidence: float = 0.0
    taken_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    received_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    state: SampleState = SampleState.WAITING
    label: str = ""
    boxes: list[SampleBox] = Field(default=[], sa_type=json_of(list[SampleBox]))
    decided_by: str = ""
    decided_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    like: str = ""
    dataset_version: str = ""
    message: str = ""
    # Counts what was decided, so that who decides can say what they saw.
    revision: int = 0
    # All that was decided, the oldest first; not the answer that a second one is waited for.
    history: list[Decision] = Field(default=[], sa_type=json_of(list[Decision]))


class QueuedSample(SampleView, table=True):
    __tablename__ = "sample"
    __table_args__ = (
        Index("ix_sample_queue", "project", "state"),
        Index("ix_sample_received", "device", "received_at"),
    )
    # What it looks like from afar, 192 bytes: see rules.py.
    look: bytes = b""
    # Whether the hub still has the picture.
    kept: bool = True
    # Order of arrival, to turn pages by.
    arrival: str = Field(default="", index=True)
    # Of a picture that two people are asked about. Not in the view: the second must not see what the first said.
    opinions: list[Opinion] = Field(default=[], sa_type=json_of(list[Opinion]))
    # Whose opinion is there while the second is waited for.
    first_by: str = Field(default="", index=True)
    first_at: datetime | None = Field(default=None, sa_type=UTC_TIME)


class SampleSource(SQLModel, table=True):
    """What a device said of the pictures that it did not send."""

    __tablename__ = "sample_source"
    device: str = Field(primary_key=True)
    project: str = Field(primary_key=True)
    dropped_count: int = 0
    told_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class LabelledAccuracy(BaseModel):
    """How often devices of one type were right, with the 95 % interval of that share."""

    device_type: str
    labelled: int
    right: int
    accuracy: float
    low: float
    high: float


class ClassAgreement(BaseModel):
    """How well people agree on one class, beyond chance."""

    label: str
    # Pictures of which at least one of both said that they show it.
    pictures: int
    # Cohen's; None where both said the same of all pictures, or of none.
    kappa: float | None = None


class Agreement(BaseModel):
    """How well people agree who were asked about the same pictures."""

    pictures: int
    agreed: int
    classes: list[ClassAgreement] = []


class SpentDay(BaseModel):
    """A device that has sent in 24 hours what its project lets each send."""

    device: str
    pictures: int
    size_bytes: int
    # When the first of those are 24 hours ago, so that it may send again.
    free_at: datetime | None = None


class Labelling(BaseModel):
    """How much waits and is done in one project."""

    project: str
    enabled: bool
    waiting: int = 0
    pending: int = 0
    labelled: int = 0
    skipped: int = 0
    refused: int = 0
    done_today: int = 0
    dropped: int = 0
    accuracies: list[LabelledAccuracy] = []
    # Waiting for somebody to decide between two people.
    conflicts: int = 0
    # None before two people were asked about the same picture.
    agreement: Agreement | None = None
    # What the project lets each device send in 24 hours.
    pictures_per_day: int = 0
    bytes_per_day: int = 0
    # Devices that have sent as much, by name: the first hundred, and how many there are.
    spent: list[SpentDay] = []
    spent_count: int = 0
    # Why no device may send now, and what to do about it; "" where they may.
    stopped: str = ""
