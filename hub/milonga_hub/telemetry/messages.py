"""Messages of devices, read. Some thousands come each second, so that this goes field by field and not over the bridge."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from milonga.v1 import common_pb2, telemetry_pb2

from milonga_hub.errors import InvalidInput
from milonga_hub.telemetry.figures import Histogram, Packed, Percentiles, histogram_of, percentiles_of
from milonga_hub.telemetry.models import TelemetryWindow

TOPIC_ROOT = "milonga/v1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NANOS = 1_000_000_000


class WindowId(NamedTuple):
    """What makes a window the same one, however often it is sent."""

    device: str
    boot_id: str
    sequence: int


def device_of(topic: str) -> str:
    return topic.removeprefix(f"{TOPIC_ROOT}/").removesuffix("/telemetry")


class Unusable(InvalidInput):
    """A window that can be told from others and not be stored, however often it is sent."""

    def __init__(self, message: str, window: WindowId) -> None:
        super().__init__(message)
        self.window = window


def parse_window(topic: str, payload: bytes) -> TelemetryWindow:
    """Return the window that a device published. Raises InvalidInput for anything that cannot be stored, Unusable where it has an id."""
    device = device_of(topic)
    try:
        message = telemetry_pb2.TelemetryWindow.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(f"not a TelemetryWindow: {error}") from error
    if message.device != device:
        raise InvalidInput(f"the message says it is from {message.device!r}")
    boot_id, sequence = message.boot_id, message.sequence
    if not boot_id or sequence < 0:
        raise InvalidInput("a window needs a boot_id and a sequence from 0 on")
    try:
        return _window(message, device)
    except InvalidInput as error:
        raise Unusable(str(error), WindowId(device, boot_id, sequence)) from error


def _window(message: telemetry_pb2.TelemetryWindow, device: str) -> TelemetryWindow:
    if not (message.HasField("started_at") and message.HasField("ended_at")):
        raise InvalidInput("a window needs the times from when to when it is")
    latency, percentiles, confidence = _optional(message)
    return TelemetryWindow(
        device,
        message.boot_id,
        message.sequence,
        _time("started_at", message.started_at),
        _time("ended_at", message.ended_at),
        message.bundle,
        message.model_version,
        message.project,
        message.request_count,
        message.error_count,
        None if latency is None else _histogram("log10_latency_ms", latency),
        None if percentiles is None else _percentiles(percentiles),
        None if confidence is None else _histogram("confidence", confidence),
        message.class_counts[:],
        {name: _histogram(name, one) for name, one in message.inputs.items()},
        _figure("cpu_percent", message.cpu_percent),
        message.memory_bytes,
        _figure("temperature_celsius", message.temperature_celsius),
        message.dropped_count,
        packed=_packed(message, latency, percentiles, confidence),
    )


_Optional = tuple[common_pb2.Histogram | None, common_pb2.Percentiles | None, common_pb2.Histogram | None]


def _optional(message: telemetry_pb2.TelemetryWindow) -> _Optional:
    percentiles = message.latency_ms if message.HasField("latency_ms") else None
    if percentiles is not None and any(map(math.isnan, _figures(percentiles))):
        # A window without requests has no latencies.
        percentiles = None
    return (
        message.log10_latency_ms if message.HasField("log10_latency_ms") else None,
        percentiles,
        message.confidence if message.HasField("confidence") else None,
    )


def _packed(
    message: telemetry_pb2.TelemetryWindow,
    latency: common_pb2.Histogram | None,
    percentiles: common_pb2.Percentiles | None,
    confidence: common_pb2.Histogram | None,
) -> Packed:
    counts, inputs = telemetry_pb2.TelemetryWindow(), telemetry_pb2.TelemetryWindow()
    counts.class_counts.MergeFrom(message.class_counts)
    inputs.inputs.MergeFrom(message.inputs)
    return Packed(
        None if latency is None else latency.SerializeToString(),
        None if percentiles is None else percentiles.SerializeToString(),
        None if confidence is None else confidence.SerializeToString(),
        counts.SerializeToString(),
        inputs.SerializeToString(),
    )


def _time(name: str, stamp: Timestamp) -> datetime:
    nanos = stamp.nanos
    try:
        if not 0 <= nanos < _SECOND_NANOS:
            raise ValueError(f"{nanos} nanoseconds")
        return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=nanos // 1000)
    except (ValueError, OverflowError) as error:
        # A time before the year 1 or after 9999.
        raise InvalidInput(f"{name} is no time: {stamp.seconds} s and {nanos} ns") from error


def _histogram(name: str, message: common_pb2.Histogram) -> Histogram:
    if not math.isfinite(message.low + message.high):
        raise InvalidInput(f"{name} must reach from a finite number to a finite number")
    return histogram_of(message)


def _percentiles(message: common_pb2.Percentiles) -> Percentiles:
    if not all(map(math.isfinite, _figures(message))):
        raise InvalidInput("latency_ms must be finite numbers")
    return percentiles_of(message)


def _figures(message: common_pb2.Percentiles) -> tuple[float, ...]:
    return (message.p50, message.p90, message.p99, message.mean)


def _figure(name: str, value: float) -> float | None:
    """Return the figure; None where there is none, which is said by 0 or by not-a-number."""
    if math.isinf(value):
        raise InvalidInput(f"{name} must be a finite number")
    return None if value == 0 or math.isnan(value) else value
