"""Windows as devices usually send them, whose histograms nobody opens: to open them was most of what a window cost.

A histogram lies in the database as the bytes that it came as. That it is one with the edges and the number of bins that all have, and
counts that can be, is seen by these bytes alone. What is otherwise in any way is read by `messages.parse_window`, which says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet
from milonga.pictures import BINS
from milonga.v1 import common_pb2, telemetry_pb2

from milonga_hub.errors import InvalidInput
from milonga_hub.telemetry.figures import Packed, histogram_of
from milonga_hub.telemetry.models import Counted, TelemetryWindow
from milonga_hub.telemetry.rules_intake import MOST_ANSWERS, MOST_CLASSES, MOST_STATISTICS, statistic_flaw
from milonga_hub.telemetry.varints import how_many, varint

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NANOS = 1_000_000_000
# Bytes of a number: seven bits each, and the eighth where another follows. So many bins take two or more than one.
_MORE = 0x80
_AS_FOLLOWED = bytes(range(_MORE)) + bytes((_MORE,)) * _MORE
# Five such bytes would be more than any count (rules_intake).
_TOO_LONG = bytes((_MORE,)) * 4
# Four figures, each with its tag; how many they are of follows.
_PERCENTILES = Struct("<BdBdBdBd")
_PERCENTILE_TAGS = (0x09, 0x11, 0x19, 0x21)
_COUNTS_TAG, _CLASSES_TAG, _INPUT_TAG, _HISTOGRAM_TAG = b"\x1a", b"\x72", b"\x7a", b"\x12"


def moment(name: str, stamp: Timestamp) -> datetime:
    """Return the time. Raises InvalidInput for none."""
    nanos = stamp.nanos
    try:
        if not 0 <= nanos < _SECOND_NANOS:
            raise ValueError(f"{nanos} nanoseconds")
        return _EPOCH + timedelta(0, stamp.seconds, nanos // 1000)
    except (ValueError, OverflowError) as error:
        # A time before the year 1 or after 9999.
        raise InvalidInput(f"{name} is no time: {stamp.seconds} s and {nanos} ns") from error


def figure(name: str, value: float) -> float | None:
    """Return the figure; None where there is none, which is said by 0 or by not-a-number."""
    if math.isinf(value):
        raise InvalidInput(f"{name} must be a finite number")
    return None if value == 0 or math.isnan(value) else value


def usual_window(device: str, payload: bytes) -> TelemetryWindow | None:
    """Return the window that the device sent, its histograms `packed` and sound; None for one that has to be looked at more closely."""
    try:
        message = _Cut.FromString(payload)
    except DecodeError:
        return None
    sequence, request_count = message.sequence, message.request_count
    if (
        message.device != device
        or sequence < 0
        or not (message.HasField("started_at") and message.HasField("ended_at"))
    ):
        return None
    counted: Counted = {}
    packed = _packed(message, request_count, counted)
    if packed is None or not message.boot_id:
        return None
    # Without __init__: what is not given here is read when somebody asks for it, see models.TelemetryWindow.
    window = TelemetryWindow.__new__(TelemetryWindow)
    window.device, window.boot_id, window.sequence = device, message.boot_id, sequence
    try:
        window.started_at = moment("started_at", message.started_at)
        window.ended_at = moment("ended_at", message.ended_at)
        window.cpu_percent = figure("cpu_percent", message.cpu_percent)
        window.temperature_celsius = figure("temperature_celsius", message.temperature_celsius)
    except InvalidInput:
        return None
    window.bundle, window.model_version, window.project = message.bundle, message.model_version, message.project
    window.request_count, window.error_count = request_count, message.error_count
    window.memory_bytes, window.dropped_count = message.memory_bytes, message.dropped_count
    window.packed, window.counted = packed, counted
    window.begin()
    return window


def _packed(message: Any, request_count: int, counted: Counted) -> Packed | None:
    """Return histograms and the like as they are stored, and note what they count; None where one of them is not usual."""
    if not message.class_counts and len(UnknownFieldSet(message)):
        # They may have come one by one, which is as good and which no known library does.
        return None
    latency, percentiles, confidence = message.log10_latency_ms, message.latency_ms, message.confidence
    if latency:
        if not _is_known("log10_latency_ms", latency, counted):
            return None
    elif message.HasField("log10_latency_ms"):
        return None
    if confidence:
        if not _is_known("confidence", confidence, counted):
            return None
        if len(confidence) > _FEWEST["confidence"] + 1 or not request_count:
            answers = sum(common_pb2.Histogram.FromString(confidence).counts)
            if answers > request_count * MOST_ANSWERS:
                return None
    elif message.HasField("confidence"):
        return None
    if percentiles:
        are_none = _are_no_percentiles(percentiles)
        if are_none is None:
            return None
        if are_none:
            percentiles = b""
    elif message.HasField("latency_ms"):
        return None
    classes, inputs = _classes(message.class_counts[:], request_count, counted), _inputs(message.inputs[:], counted)
    if classes is None or inputs is None:
        return None
    return Packed(latency or None, percentiles or None, confidence or None, classes, inputs)


def _is_known(name: str, packed: bytes, counted: Counted) -> bool:
    head = _HEADS.get((name, len(packed)))
    if head is None or not packed.startswith(head):
        return False
    counts = counted[name] = packed[len(head) :]
    return _are_counts(counts, BINS[name][2])


def _are_counts(packed: bytes, bins: int) -> bool:
    """Return whether these are so many numbers, none of more than four bytes."""
    size = len(packed)
    if size == bins:
        return packed.isascii()
    if not size or packed[-1] >= _MORE or how_many(packed) != bins:
        return False
    return size - bins < len(_TOO_LONG) or _TOO_LONG not in packed.translate(_AS_FOLLOWED)


def _are_no_percentiles(packed: bytes) -> bool | None:
    """Return whether these say that there are none, as they are without requests; None where they are not usual."""
    if len(packed) < _PERCENTILES.size:
        return None
    tag50, p50, tag90, p90, tag99, p99, tag_mean, mean = _PERCENTILES.unpack_from(packed)
    rest = packed[_PERCENTILES.size :]
    if (tag50, tag90, tag99, tag_mean) != _PERCENTILE_TAGS or (
        rest and (rest[0] != 0x28 or not _are_counts(rest[1:], 1))
    ):
        return None
    if 0 <= p50 <= p90 <= p99 <= 1e9 and 0 <= mean <= 1e9:
        return False
    return True if any(map(math.isnan, (p50, p90, p99, mean))) else None


def _classes(chunks: Sequence[bytes], request_count: int, counted: Counted) -> bytes | None:
    """Return counts of classes as they are stored; None where they are not usual."""
    if not chunks:
        return b""
    (packed, *more) = chunks
    size = len(packed)
    if more or not size:
        return None
    bins = how_many(packed)
    if bins > MOST_CLASSES or not _are_counts(packed, bins):
        return None
    counted["class_counts"] = packed
    stored = _CLASSES_TAG + _length(size) + packed
    if size > bins + 1 or bins * (_MORE - 1) > request_count * MOST_ANSWERS:
        answers = sum(telemetry_pb2.TelemetryWindow.FromString(stored).class_counts)
        if answers > request_count * MOST_ANSWERS:
            return None
    return stored


def _inputs(entries: Sequence[bytes], counted: Counted) -> bytes | None:
    """Return statistics of pictures and of the machine as they are stored; None where they are not usual."""
    if len(entries) > MOST_STATISTICS:
        return None
    parts: list[bytes] = []
    before = len(counted)
    for entry in entries:
        size = len(entry)
        tagged = _INPUT_TAG + _length(size) + entry
        parts.append(tagged)
        known = _ENTRIES.get((entry[:_NAMED], size))
        if known is None:
            if not _is_statistic(tagged, counted):
                return None
            continue
        name, head, bins = known
        if not entry.startswith(head):
            return None
        counts = counted[name] = entry[len(head) :]
        if not _are_counts(counts, bins):
            return None
    # Each once.
    return b"".join(parts) if len(counted) == before + len(entries) else None


def _is_statistic(tagged: bytes, counted: Counted) -> bool:
    """Return whether this is one with other edges than those that all have, as those of machines are."""
    try:
        ((name, one),) = telemetry_pb2.TelemetryWindow.FromString(tagged).inputs.items()
    except (DecodeError, ValueError):
        return False
    counted[name] = histogram = histogram_of(one)
    return math.isfinite(one.low + one.high) and not statistic_flaw(name, histogram)


_LENGTHS = tuple(map(varint, range(1024)))


def _length(size: int) -> bytes:
    return _LENGTHS[size] if size < len(_LENGTHS) else varint(size)


def _cut() -> Any:
    """Return the class of a TelemetryWindow whose histograms and the like stay as the bytes that they came as."""
    whole = descriptor_pb2.DescriptorProto()
    telemetry_pb2.TelemetryWindow.DESCRIPTOR.CopyToProto(whole)
    del whole.nested_type[:]
    for field in whole.field:
        if field.name not in Packed._fields:
            continue
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
        field.ClearField("type_name")
        if field.label != descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED:
            # So that one that is there and empty can be told from none.
            field.proto3_optional, field.oneof_index = True, len(whole.oneof_decl)
            whole.oneof_decl.add(name=f"_{field.name}")
    file = descriptor_pb2.FileDescriptorProto(
        name="milonga_hub/telemetry/usual.proto",
        package="milonga.hub",
        syntax="proto3",
        dependency=[timestamp_pb2.DESCRIPTOR.name],
        message_type=[whole],
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"milonga.hub.{whole.name}"))


def _heads() -> Iterator[tuple[str, bytes, int]]:
    """Yield names of histograms with what stands before their counts, and of how many bytes these are: at most two each."""
    for name, (low, high, bins) in BINS.items():
        edges = common_pb2.Histogram(low=low, high=high).SerializeToString()
        for size in range(bins, 2 * bins + 1):
            yield name, edges + _COUNTS_TAG + _length(size), size


def _entry_head(name: str, head: bytes, size: int) -> bytes:
    """Return what stands before the counts of a statistic in a window's map of them."""
    key = b"\x0a" + _length(len(name)) + name.encode()
    return key + _HISTOGRAM_TAG + _length(len(head) + size) + head


_Cut = _cut()
# By name and by bytes in all.
_HEADS = {(name, len(head) + size): head for name, head, size in _heads()}
_FEWEST = {name: len(head) + size for name, head, size in reversed([*_heads()])}
# What tells them apart is in their first bytes.
_NAMED = 12
_ENTRIES = {
    (head[:_NAMED], len(head) + size): (name, head, BINS[name][2])
    for name, edges, size in _heads()
    for head in [_entry_head(name, edges, size)]
}
