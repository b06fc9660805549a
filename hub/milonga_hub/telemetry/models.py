"""Telemetry windows and the drift seen in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel
from sqlmodel import Field, Index, SQLModel, UniqueConstraint

from milonga_hub.db import UTC_TIME, json_of, utc_now


class Percentiles(BaseModel):
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    mean: float = 0.0
    count: int = 0


class Histogram(BaseModel):
    low: float = 0.0
    high: float = 0.0
    counts: list[int] = []


class TelemetryWindowView(SQLModel):
    device: str = Field(index=True)
    boot_id: str
    sequence: int = 0
    started_at: datetime = Field(sa_type=UTC_TIME)
    ended_at: datetime = Field(sa_type=UTC_TIME, index=True)
    bundle: str = ""
    model_version: str = ""
    project: str = Field(default="", index=True)
    request_count: int = 0
    error_count: int = 0
    log10_latency_ms: Histogram | None = Field(default=None, sa_type=json_of(Histogram))
    latency_ms: Percentiles | None = Field(default=None, sa_type=json_of(Percentiles))
    confidence: Histogram | None = Field(default=None, sa_type=json_of(Histogram))
    class_counts: list[int] = Field(default=[], sa_type=json_of(list[int]))
    inputs: dict[str, Histogram] = Field(default={}, sa_type=json_of(dict[str, Histogram]))
    cpu_percent: float | None = None
    memory_bytes: int = 0
    temperature_celsius: float | None = None
    dropped_count: int = 0


class TelemetryWindow(TelemetryWindowView, table=True):
    """One row a message; (device, boot_id, sequence) makes a repeat harmless."""

    __tablename__ = "telemetry_window"
    __table_args__ = (
        UniqueConstraint("device", "boot_id", "sequence"),
        Index("ix_telemetry_window_age", "device", "resolution_seconds", "ended_at"),
    )
    id: int | None = Field(default=None, primary_key=True)
    received_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    # 0: as it came; else it stands for all of so many seconds. See retention.py.
    resolution_seconds: int = 0

    @property
    def window_count(self) -> int:
        return 1


class TelemetryTotal(SQLModel, table=True):
    """All windows of a model version that began in one step of time, added up."""

    __tablename__ = "telemetry_total"
    project: str = Field(primary_key=True)
    model_version: str = Field(primary_key=True)
    step_seconds: int = Field(primary_key=True)
    started_at: datetime = Field(primary_key=True, sa_type=UTC_TIME)
    window_count: int = 0
    request_count: int = 0
    error_count: int = 0
    log10_latency_ms: Histogram | None = Field(default=None, sa_type=json_of(Histogram))
    confidence: Histogram | None = Field(default=None, sa_type=json_of(Histogram))
    class_counts: list[int] = Field(default=[], sa_type=json_of(list[int]))
    inputs: dict[str, Histogram] = Field(default={}, sa_type=json_of(dict[str, Histogram]))
    # The mean, the most and the hottest of them.
    cpu_percent: float | None = None
    memory_bytes: int = 0
    temperature_celsius: float | None = None


class DriftEvent(SQLModel, table=True):
    __tablename__ = "drift_event"
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    device: str
    model_version: str
    signal: str
    statistic: float
    threshold: float
    p_value: float
    sample_count: int
    detected_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    message: str = ""
    triggered_run: str = ""
    began_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    ended_at: datetime | None = Field(default=None, sa_type=UTC_TIME)


@dataclass(frozen=True)
class Estimate:
    """Share of answers that are right, with its 95 % interval, and what it was on the validation pictures."""

    accuracy: float
    low: float
    high: float
    answer_count: int
    validated: float
