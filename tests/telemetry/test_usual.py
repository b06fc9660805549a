"""A usual window is taken without a look into its histograms, and is what such a look would have found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga.pictures import BINS
from milonga.v1 import common_pb2, telemetry_pb2
from milonga_hub.telemetry.messages import opened_window
from milonga_hub.telemetry.rules_intake import flaw
from milonga_hub.telemetry.usual import usual_window

_COUNTS = st.one_of(st.just(0), st.integers(0, 200), st.integers(0, 2**35), st.integers(-3, 2**62))
_NAMES = ("brightness", "size", "warmth", "power", "Nonsense")


def _sent(**values: Any) -> telemetry_pb2.TelemetryWindow:
    """Return a window as an agent sends it, with these values in place of its own."""
    message = telemetry_pb2.TelemetryWindow(
        device="pi-1", boot_id="boot", sequence=7, bundle="sha256:1", request_count=300, class_counts=[100, 0, 200],
        confidence=_histogram("confidence", [0] * 17 + [3, 97, 200]),
        log10_latency_ms=_histogram("log10_latency_ms", [0] * 100 + [300] + [0] * 39),
        latency_ms=common_pb2.Percentiles(p50=1.0, p90=2.0, p99=2.0, mean=1.5, count=300),
        inputs={name: _histogram(name, [15] * 20) for name in ("brightness", "contrast", "sharpness", "size")},
    )  # fmt: skip
    message.started_at.seconds, message.ended_at.seconds = 1_800_000_000, 1_800_000_030
    for name, value in values.items():
        message.ClearField(name)  # type: ignore[arg-type]
        message.MergeFrom(telemetry_pb2.TelemetryWindow(**{name: value}))
    return message


def _histogram(name: str, counts: list[int]) -> common_pb2.Histogram:
    low, high, _ = BINS.get(name, (0.0, 10.0, 0))
    return common_pb2.Histogram(low=low, high=high, counts=counts)


def _histograms(name: str) -> st.SearchStrategy[common_pb2.Histogram]:
    _, _, bins = BINS.get(name, (0, 0, 3))
    some = st.lists(_COUNTS, min_size=bins, max_size=bins) | st.lists(_COUNTS, max_size=3)
    return some.map(lambda counts: _histogram(name, counts))


_NONE = common_pb2.Percentiles(p50=float("nan"), p90=float("nan"), p99=float("nan"), mean=float("nan"))


@pytest.mark.parametrize(
    "values",
    [
        {},
        # A board that tells of its power and was held back, of a network that places pictures in cells.
        {"inputs": {"power": _histogram("power", [1] + [0] * 23), "throttled": _histogram("throttled", [0, 1])}},
        {
            "request_count": 0,
            "class_counts": [0] * 3,
            "confidence": _histogram("confidence", [0] * 20),
            "latency_ms": _NONE,
        },
        {"class_counts": [300] * 80, "request_count": 24_000},
    ],
)
def test_what_agents_send_is_usual(values: dict[str, Any]) -> None:
    message = _sent(**values).SerializeToString()
    window = usual_window("pi-1", message)
    assert window is not None
    assert flaw(window) == ""
    assert window == opened_window("pi-1", message)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "request_count": st.integers(0, 1000),
            "class_counts": st.lists(_COUNTS, max_size=12),
            "confidence": _histograms("confidence"),
            "log10_latency_ms": _histograms("log10_latency_ms"),
            "inputs": st.fixed_dictionaries({}, optional={name: _histograms(name) for name in _NAMES}),
            "latency_ms": st.builds(
                common_pb2.Percentiles,
                p50=st.floats(),
                p90=st.floats(),
                p99=st.floats(),
                mean=st.floats(),
                count=_COUNTS,
            ),
            "temperature_celsius": st.floats(allow_infinity=False),
        },
    )
)
def test_what_is_taken_for_usual_is_read_alike_and_has_no_other_flaw(values: dict[str, Any]) -> None:
    message = _sent(**values).SerializeToString()
    window = usual_window("pi-1", message)
    if window is None:
        return
    opened = opened_window("pi-1", message)
    assert flaw(window) == flaw(opened)
    assert window == opened


@given(st.data())
def test_whatever_bytes_come_what_is_usual_can_be_opened_and_is_sound(data: st.DataObject) -> None:
    message = bytearray(_sent().SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    window = usual_window("pi-1", bytes(message + message[cut:]))
    if window is not None:
        assert flaw(replace(window, packed=None)) == flaw(window)


def test_counts_of_classes_that_come_one_by_one_are_read_as_well() -> None:
    message = _sent()
    message.ClearField("class_counts")
    one_by_one = message.SerializeToString() + bytes([0x70, 1, 0x70, 2])
    window = usual_window("pi-1", one_by_one) or opened_window("pi-1", one_by_one)
    assert window.class_counts == [1, 2]


def test_a_statistic_that_comes_twice_is_not_counted_twice() -> None:
    twice = _sent().SerializeToString() + _sent(inputs={"size": _histogram("size", [15] * 20)}).SerializeToString()
    assert usual_window("pi-1", twice) is None
