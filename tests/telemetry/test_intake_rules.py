"""A device that lies is contained: what cannot be true is refused, wrong clocks are set right, floods end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import Histogram, Percentiles
from milonga_hub.telemetry.refusals import Refusals
from milonga_hub.telemetry.rules_intake import Allowance, flaw, righted
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url
from tests.telemetry.windows import START, histogram, window

_TIMES = st.integers(0, 200 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def test_an_ordinary_window_has_no_flaw() -> None:
    assert (
        flaw(window(3, request_count=9, confidence=histogram("confidence", [0] * 17 + [1, 2, 6]), cpu_percent=120.0))
        == ""
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"request_count": -1}, "request_count is -1"),
        ({"error_count": 10**12}, "error_count"),
        ({"class_counts": [1, -5]}, "class_counts is -5"),
        ({"class_counts": [0] * 100_000}, "counts 100000 classes"),
        ({"error_count": 1}, "1 of 0 requests failed"),
        # 33 million a second.
        ({"request_count": 10**9}, "request_count is 1000000000 in 30 s"),
        ({"request_count": 1, "class_counts": [10**6]}, "1000000 answers to 1 requests"),
        ({"request_count": 1, "confidence": histogram("confidence", [10**5] * 20)}, "2000000 answers to 1 requests"),
        ({"confidence": Histogram(low=0, high=1, counts=[1] * 5000)}, "confidence has 5000 bins"),
        # It could not be added to those of others.
        ({"confidence": Histogram(low=-5, high=99, counts=[1] * 20)}, "this hub knows others"),
        ({"inputs": {"brightness": Histogram(low=0, high=1, counts=[1] * 21)}}, "inputs.brightness has 21 bins"),
        ({"inputs": {"<script>": Histogram(low=0, high=1, counts=[1])}}, "called '<script>'"),
        ({"inputs": {"y" * 100_000: Histogram(low=0, high=1, counts=[1])}}, f"called '{'y' * 32}'"),
        ({"latency_ms": Percentiles(p50=9.0, p90=3.0, p99=1.0)}, "p50 9.0, p90 3.0 and p99 1.0"),
        # PostgreSQL stores no such text.
        ({"boot_id": "a\x00b"}, r"boot_id has letters that cannot be shown: 'a\x00b'"),
        ({"confidence": Histogram(low=1.0, high=0.0, counts=[1])}, "confidence reaches from 1.0 to 0.0"),
        ({"inputs": {"brightness": histogram("brightness", [2**62] + [0] * 19)}}, "inputs.brightness is"),
        ({"inputs": {f"x{n}": Histogram() for n in range(100)}}, "100 statistics"),
        ({"latency_ms": Percentiles(p50=-3.0)}, "latency_ms.p50 is -3.0"),
        ({"memory_bytes": 2**60}, "memory_bytes"),
        ({"cpu_percent": -1.0}, "cpu_percent"),
        ({"temperature_celsius": 9e9}, "temperature_celsius"),
        ({"project": "x" * 1000}, "project is longer than 256"),
        ({"started_at": datetime(1, 1, 1, tzinfo=UTC)}, "0001|it is of 1-"),
    ],
)
def test_what_cannot_be_true_is_named(values: dict[str, Any], said: str) -> None:
    assert any(part in flaw(window(**values)) for part in said.split("|"))


@given(started=_TIMES, ended=_TIMES, now=_TIMES)
def test_whatever_the_clock_says_a_window_is_of_the_past_and_not_long(
    started: datetime, ended: datetime, now: datetime
) -> None:
    found = righted(window(started_at=started, ended_at=ended), now)
    assert found.ended_at <= now + timedelta(minutes=5)
    assert timedelta() <= found.ended_at - found.started_at <= timedelta(days=1)


def test_a_window_with_times_that_can_be_stays_as_it_is() -> None:
    sent = window(1)
    assert righted(sent, START + timedelta(days=30)) is sent


def test_a_spool_of_days_may_come_at_once_and_a_flood_may_not() -> None:
    allowance = Allowance.full(0.0)
    assert all(allowance.take(0.001 * n) for n in range(6_000))
    taken = sum(allowance.take(6.0 + 0.001 * n) for n in range(100_000))
    assert taken < 16_000
    assert allowance.take(200.0)


def test_a_device_speaks_of_nothing_but_what_it_was_given(tmp_path: Path) -> None:
    database = Database(database_url(tmp_path / "hub.db"))
    database.create_tables()
    known = {window().bundle: ("digits", "models/digits/versions/1")}
    service = TelemetryService(
        database, EventBus(), lambda bundle: None, lambda project: DriftPolicy(), served_as=known.get
    )
    assert service.examine(window()).project == "digits"
    lies: list[tuple[dict[str, Any], str]] = [
        ({"project": "faces"}, "of 'faces'"),
        ({"model_version": "models/digits/versions/9"}, "versions/9"),
        ({"bundle": "sha256:" + "9" * 64}, "ever assigned"),
        ({"bundle": ""}, "of 'digits'"),
    ]
    for values, said in lies:
        with pytest.raises(InvalidInput, match=said):
            service.examine(window(**values))
    assert service.examine(window(bundle="", project="", model_version="")).bundle == ""


def test_each_refusal_is_counted_and_the_log_hears_of_a_device_once_a_minute_at_most() -> None:
    now = START
    refusals = Refusals(lambda: now)
    told = []
    for second in range(120):
        now = START + timedelta(seconds=second)
        told.append(refusals.note("pi-1", "telemetry", f"request_count is -{second}"))
    assert [second for second, is_told in enumerate(told) if is_told] == [0, 60]
    refused = refusals.of("pi-1")
    assert (refused.count, refused.reason, refused.refused_at) == (120, "request_count is -119", now)
    assert refusals.of("pi-2").count == 0
    assert refusals.note("pi-2", "telemetry", "another device")
