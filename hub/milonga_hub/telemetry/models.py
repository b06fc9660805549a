"""Telemetry windows and the drift seen in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlmodel import Field, Index, SQLModel, UniqueConstraint

from milonga_hub.db import UTC_TIME, utc_now
from milonga_hub.telemetry.figures import (
    COUNTS,
    HISTOGRAM,
    HISTOGRAMS,
    PERCENTILES,
    Histogram,
    Packed,
    Percentiles,
    unpacked,
)

_NEVER = datetime.min.replace(tzinfo=UTC)
_KIND_OF = dict(zip(Packed._fields, ("histogram", "percentiles", "histogram", "counts", "histograms"), strict=True))
# Counts by name of a histogram, packed where it has the edges that all have, and of classes.
Counted = dict[str, bytes | Histogram]


@dataclass(slots=True)
class TelemetryWindow:
    """One window as the hub passes it on: made and read some thousands of times a second, so that it validates nothing."""

    device: str
    boot_id: str
    sequence: int
    started_at: datetime
    ended_at: datetime
    bundle: str = ""
    model_version: str = ""
    project: str = ""
    request_count: int = 0
    error_count: int = 0
    log10_latency_ms: Histogram | None = None
    latency_ms: Percentiles | None = None
    confidence: Histogram | None = None
    class_counts: list[int] = field(default_factory=list)
    inputs: dict[str, Histogram] = field(default_factory=dict)
    cpu_percent: float | None = None
    memory_bytes: int = 0
    temperature_celsius: float | None = None
    dropped_count: int = 0
    # Until it is stored.
    id: int | None = None
    received_at: datetime = _NEVER
    # 0: as it came; else it stands for all of so many seconds. See retention.py.
    resolution_seconds: int = 0
    # Its histograms and the like as they are stored, where they came so and are sound (usual.py): they are read when somebody asks for one.
    packed: Packed | None = field(default=None, compare=False, repr=False)
    # The same, without what is around the counts, for who adds up (added.py).
    counted: Counted | None = field(default=None, compare=False, repr=False)

    def begin(self) -> None:
        """Give what the hub sets of a window that just came the value that it has until then."""
        self.id, self.received_at, self.resolution_seconds = None, _NEVER, 0

    def __getattr__(self, name: str) -> Any:
        # Asked for what is not there yet.
        if name not in _KIND_OF:
            raise AttributeError(f"a window has no {name}")
        packed: bytes | None = getattr(self.packed, name)
        value = unpacked(_KIND_OF[name], packed)
        setattr(self, name, value)
        return value

    @property
    def window_count(self) -> int:
        return 1


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
    log10_latency_ms: Histogram | None = Field(default=None, sa_type=HISTOGRAM)
    latency_ms: Percentiles | None = Field(default=None, sa_type=PERCENTILES)
    confidence: Histogram | None = Field(default=None, sa_type=HISTOGRAM)
    class_counts: list[int] = Field(default=[], sa_type=COUNTS)
    inputs: dict[str, Histogram] = Field(default={}, sa_type=HISTOGRAMS)
    cpu_percent: float | None = None
    memory_bytes: int = 0
    temperature_celsius: float | None = None
    dropped_count: int = 0


class TelemetryWindowRow(TelemetryWindowView, table=True):
    """One row a message; (device, boot_id, sequence) makes a repeat harmless."""

    __tablename__ = "telemetry_window"
    __table_args__ = (
        UniqueConstraint("device", "boot_id", "sequence"),
        Index("ix_telemetry_window_age", "device", "resolution_seconds", "ended_at"),
    )
    id: int | None = Field(default=None, primary_key=True)
    received_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    resolution_seconds: int = 0


class TelemetryTotal(SQLModel, table=True):
    """All windows of a model version that began in one step of time, added up."""

    __tablename__ = "telemetry_total"
    # Charts ask for a stretch of time, of one project or of all.
    __table_args__ = (Index("ix_telemetry_total_time", "step_seconds", "started_at", "project"),)
    project: str = Field(primary_key=True)
    model_version: str = Field(primary_key=True)
    step_seconds: int = Field(primary_key=True)
    started_at: datetime = Field(primary_key=True, sa_type=UTC_TIME)
    window_count: int = 0
    request_count: int = 0
    error_count: int = 0
    log10_latency_ms: Histogram | None = Field(default=None, sa_type=HISTOGRAM)
    confidence: Histogram | None = Field(default=None, sa_type=HISTOGRAM)
    class_counts: list[int] = Field(default=[], sa_type=COUNTS)
    inputs: dict[str, Histogram] = Field(default={}, sa_type=HISTOGRAMS)
    # The mean, the most and the hottest of them.
    cpu_percent: float | None = None
    memory_bytes: int = 0
    temperature_celsius: float | None = None


class TelemetryAdded(SQLModel, table=True):
    """Up to which window all are in the totals."""

    __tablename__ = "telemetry_added"
    id: int = Field(default=1, primary_key=True)
    window_id: int = 0


class TelemetryQuarter(SQLModel, table=True):
    """What a device did in a quarter of an hour, those of one device together: see quarters.py."""

    __tablename__ = "telemetry_quarter"
    # SQLite then has rows in the order of their key.
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    started_at: datetime = Field(primary_key=True, sa_type=UTC_TIME)
    # The newest window that is in it.
    window_id: int = 0
    window_count: int = 0
    # See rules_quarters.packed_sum.
    figures: bytes = b""


class TelemetryQuartersAdded(SQLModel, table=True):
    """Up to which window all that began since are in the quarters."""

    __tablename__ = "telemetry_quarters_added"
    id: int = Field(default=1, primary_key=True)
    window_id: int = 0
    since: datetime = Field(sa_type=UTC_TIME)


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


class DriftWatch(SQLModel, table=True):
    """What was seen of a device up to one of its windows, see memory.Remembered."""

    __tablename__ = "drift_watch"
    project: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    bundle: str
    policy: str
    window_id: int
    boot_id: str
    sequence: int
    received_at: datetime = Field(sa_type=UTC_TIME)
    state: bytes


@dataclass(frozen=True)
class Estimate:
    """Share of answers that are right, with its 95 % interval, and what it was on the validation pictures."""

    accuracy: float
    low: float
    high: float
    answer_count: int
    validated: float
