"""Histograms and the like, and how they lie in the database: as messages of the protocol, which are read ten times as fast as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from milonga.v1 import common_pb2, telemetry_pb2
from pydantic import TypeAdapter


@dataclass(slots=True)
class Percentiles:
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    mean: float = 0.0
    count: int = 0


@dataclass(slots=True)
class Histogram:
    low: float = 0.0
    high: float = 0.0
    counts: list[int] = field(default_factory=list)


# A message's bytes, JSON of earlier versions and of other databases, or nothing.
Stored = bytes | str | None


class Packed(NamedTuple):
    """What is stored of a window's histograms and the like."""

    log10_latency_ms: bytes | None
    latency_ms: bytes | None
    confidence: bytes | None
    class_counts: bytes
    inputs: bytes


def packed_histogram(histogram: Histogram) -> bytes:
    message = common_pb2.Histogram(low=histogram.low, high=histogram.high, counts=histogram.counts)
    return bytes(message.SerializeToString())


def packed_histograms(histograms: Mapping[str, Histogram]) -> bytes:
    message = telemetry_pb2.TelemetryWindow()
    for name, histogram in histograms.items():
        one = message.inputs[name]
        one.low, one.high = histogram.low, histogram.high
        one.counts.extend(histogram.counts)
    return bytes(message.SerializeToString())


def packed_counts(counts: Sequence[int]) -> bytes:
    return bytes(telemetry_pb2.TelemetryWindow(class_counts=counts).SerializeToString())


def packed_percentiles(percentiles: Percentiles) -> bytes:
    return bytes(common_pb2.Percentiles(**asdict(percentiles)).SerializeToString())


def histogram_of(message: common_pb2.Histogram) -> Histogram:
    return Histogram(message.low, message.high, message.counts[:])


def histograms_of(message: telemetry_pb2.TelemetryWindow) -> dict[str, Histogram]:
    return {name: histogram_of(one) for name, one in message.inputs.items()}


def percentiles_of(message: common_pb2.Percentiles) -> Percentiles:
    return Percentiles(message.p50, message.p90, message.p99, message.mean, message.count)


class _Packed(sa.types.TypeDecorator[Any]):
    """Bytes of a message. Columns of SQLite take text and bytes alike: rows of earlier versions hold JSON there, and are read too."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, name: str) -> None:
        super().__init__()
        # By name, so that two of a kind are one to SQLAlchemy's cache of statements.
        self.name = name

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.LargeBinary() if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        if value is None:
            return None
        _, pack, _ = _KINDS[self.name]
        return pack(value)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return unpacked(self.name, value)


def unpacked(kind: str, stored: Stored) -> Any:
    """Return a "histogram", "histograms", "counts" or "percentiles" from what lies in the database."""
    if stored is None:
        return None
    type_, _, unpack = _KINDS[kind]
    return unpack(stored) if isinstance(stored, bytes) else type_.validate_json(stored)


_WINDOW, _HISTOGRAM = telemetry_pb2.TelemetryWindow.FromString, common_pb2.Histogram.FromString
_KINDS: dict[str, tuple[TypeAdapter[Any], Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "histogram": (TypeAdapter(Histogram), packed_histogram, lambda packed: histogram_of(_HISTOGRAM(packed))),
    "histograms": (
        TypeAdapter(dict[str, Histogram]), packed_histograms, lambda packed: histograms_of(_WINDOW(packed)),
    ),
    "counts": (TypeAdapter(list[int]), packed_counts, lambda packed: _WINDOW(packed).class_counts[:]),
    "percentiles": (
        TypeAdapter(Percentiles), packed_percentiles, lambda packed: percentiles_of(common_pb2.Percentiles.FromString(packed)),
    ),
}  # fmt: skip
# For `Field(sa_type=...)`.
HISTOGRAM: Any = _Packed("histogram")
HISTOGRAMS: Any = _Packed("histograms")
COUNTS: Any = _Packed("counts")
PERCENTILES: Any = _Packed("percentiles")
