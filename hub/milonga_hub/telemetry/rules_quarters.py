"""A quarter of an hour of one device in some hundred bytes. Pure."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from milonga.v1 import common_pb2, telemetry_pb2

from milonga_hub.telemetry.figures import Histogram, histogram_of, histograms_of
from milonga_hub.telemetry.rules_series import Sum

QUARTER = 900
# Of the fastest: counts that are mostly zeros become half of their size, and the slower ones gain a twentieth more.
_LEVEL = 1


class Kept(NamedTuple):
    """Windows up to this id which began since are in quarters."""

    window_id: int
    since: datetime


def packed_sum(sum_: Sum) -> bytes:
    """Return the figures of a sum, but for its time and how many windows it has: the protocol's own message, compressed."""
    message = telemetry_pb2.TelemetryWindow(
        request_count=sum_.request_count,
        error_count=sum_.error_count,
        class_counts=sum_.class_counts,
        cpu_percent=math.nan if sum_.cpu_percent is None else sum_.cpu_percent,
        memory_bytes=sum_.memory_bytes,
        temperature_celsius=math.nan if sum_.temperature_celsius is None else sum_.temperature_celsius,
    )
    _fill(message.log10_latency_ms, sum_.log10_latency_ms)
    _fill(message.confidence, sum_.confidence)
    for name, histogram in sum_.inputs.items():
        _fill(message.inputs[name], histogram)
    return zlib.compress(message.SerializeToString(), _LEVEL)


def unpacked_sum(started_at: datetime, window_count: int, packed: bytes) -> Sum:
    """Return what `packed_sum` was given."""
    message = telemetry_pb2.TelemetryWindow.FromString(zlib.decompress(packed))
    inputs: Mapping[str, Histogram] = histograms_of(message)
    return Sum(
        started_at=started_at,
        window_count=window_count,
        request_count=message.request_count,
        error_count=message.error_count,
        log10_latency_ms=histogram_of(message.log10_latency_ms) if message.HasField("log10_latency_ms") else None,
        confidence=histogram_of(message.confidence) if message.HasField("confidence") else None,
        class_counts=[*message.class_counts],
        inputs=inputs,
        cpu_percent=_known(message.cpu_percent),
        memory_bytes=message.memory_bytes,
        temperature_celsius=_known(message.temperature_celsius),
    )


def _fill(message: common_pb2.Histogram, histogram: Histogram | None) -> None:
    if histogram is not None:
        message.low, message.high = histogram.low, histogram.high
        message.counts.extend(histogram.counts)
        message.SetInParent()


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
