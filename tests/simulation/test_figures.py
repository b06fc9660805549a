"""Made-up figures: plausible, and the same again."""

from __future__ import annotations

import statistics

from milonga.v1 import agent_pb2, common_pb2
from milonga_agent.simulation import figures
from milonga_hub.db import utc_now
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import drifted

REFERENCE = {"brightness": [0, 0, 1, 3, 6, 10, 14, 17, 18, 17, 14, 10, 6, 3, 1, 0, 0, 0, 0, 0], "class_counts": [5, 9]}


def test_a_larger_network_takes_longer_and_boards_of_a_kind_differ_a_little() -> None:
    small, large = (figures.median_ms(10.0, "sha256:a", size, (1, 1)) for size in (100_000, 10_000_000))
    assert 10 * small < large < 50 * small
    boards = [figures.median_ms(10.0, "sha256:a", 1_000_000, (1, number)) for number in range(200)]
    assert 0.02 < statistics.stdev(boards) / statistics.mean(boards) < 0.04


def test_a_measurement_is_the_same_again_for_the_same_seed() -> None:
    request = agent_pb2.MeasurementRequest(
        id="m-1", min_repeats=20, max_repeats=300, files=[common_pb2.File(path="a.onnx", size_bytes=10_000)]
    )
    first, again, other = (figures.measurement(request, 4.0, (seed,)) for seed in (1, 1, 2))
    assert first.SerializeToString() == again.SerializeToString() != other.SerializeToString()
    assert first.latency_ms.p50 < first.latency_ms.p90 < first.latency_ms.p99
    assert 3.8 < first.latency_ms.p50 < 4.2 and first.latency_ms.count == 40


def _window(shift: float, sequence: int) -> TelemetryWindow:
    counted = figures.counted(4.0, 60, 1, REFERENCE, shift, (1, sequence))
    return TelemetryWindow(
        device="sim-1", boot_id="1", sequence=sequence, started_at=utc_now(), ended_at=utc_now(),
        **{name: counted[name] for name in ("request_count", "error_count", "class_counts")},
        confidence=Histogram(**counted["confidence"]),
        inputs={name: Histogram(**each) for name, each in counted["inputs"].items()},
    )  # fmt: skip


def test_windows_look_like_the_reference_until_they_are_made_to_drift() -> None:
    policy = DriftPolicy(enabled=True)
    assert drifted(policy, REFERENCE, [_window(0.0, number) for number in range(30)]) == []
    found = drifted(policy, REFERENCE, [_window(0.25, number) for number in range(30)])
    assert [signal.name for signal in found] == ["brightness"]


def test_counts_are_whole_and_add_up() -> None:
    for count in (0, 1, 7, 60, 1000):
        assert sum(figures.spread([1, 2, 3, 0], count, ("x",))) == count
