"""Messages of devices, read. Some thousands come each second, so that most are not read as a whole: see usual.py."""

from __future__ import annotations

import math
from typing import NamedTuple

from google.protobuf.message import DecodeError
from milonga.v1 import common_pb2, telemetry_pb2

from milonga_hub.errors import InvalidInput
from milonga_hub.telemetry.figures import Histogram, Percentiles, histogram_of, percentiles_of
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.usual import figure, moment, usual_window

TOPIC_ROOT = "milonga/v1"


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
    return usual_window(device, payload) or opened_window(device, payload)


def opened_window(device: str, payload: bytes) -> TelemetryWindow:
    """As parse_window, of any window, all of it read: what this says of a usual one is the same."""
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
        moment("started_at", message.started_at),
        moment("ended_at", message.ended_at),
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
        figure("cpu_percent", message.cpu_percent),
        message.memory_bytes,
        figure("temperature_celsius", message.temperature_celsius),
        message.dropped_count,
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
