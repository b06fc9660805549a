"""Windows as they lie in the database: their histograms are read where they are added up, so that thousands of them never fill the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from milonga_hub.telemetry.figures import Histogram, Stored, unpacked


class ActiveWindow(NamedTuple):
    """Those figures of a window that say what its device did."""

    device: str
    boot_id: str
    project: str
    model_version: str
    bundle: str
    request_count: int
    error_count: int
    log10_latency_ms: Stored
    temperature_celsius: float | None
    dropped_count: int
    pictures: Stored = None


class SummedWindow(NamedTuple):
    """Those figures of a window that are added up over time."""

    started_at: datetime
    request_count: int
    error_count: int
    latency: Stored
    confidences: Stored
    classes: Stored
    pictures: Stored
    cpu_percent: float | None
    memory_bytes: int
    temperature_celsius: float | None

    @property
    def window_count(self) -> int:
        return 1

    @property
    def log10_latency_ms(self) -> Histogram | None:
        return _histogram(self.latency)

    @property
    def confidence(self) -> Histogram | None:
        return _histogram(self.confidences)

    @property
    def class_counts(self) -> Sequence[int]:
        found: Sequence[int] | None = unpacked("counts", self.classes)
        return found or ()

    @property
    def inputs(self) -> Mapping[str, Histogram]:
        found: Mapping[str, Histogram] | None = unpacked("histograms", self.pictures)
        return found or {}


def _histogram(stored: Stored) -> Histogram | None:
    found: Histogram | None = unpacked("histogram", stored)
    return found
