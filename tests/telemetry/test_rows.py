"""Windows come out of the database as they went in, whichever way they came, and rows of earlier versions are read too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from milonga.v1 import telemetry_pb2
from milonga_hub.bridge import to_proto
from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import Histogram, Percentiles
from milonga_hub.telemetry.messages import parse_window
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url, only_on_sqlite
from tests.telemetry.windows import START, plausible_counts, window_of

TOPIC = "milonga/v1/pi-1/telemetry"


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return database


@pytest.fixture
def service(database: Database) -> TelemetryService:
    return TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy(), lambda: START)


def _windows(count: int) -> Iterator[TelemetryWindow]:
    random = np.random.default_rng(5)
    for sequence in range(count):
        yield window_of(
            plausible_counts(random, 50),
            sequence,
            latency_ms=Percentiles(1.5, 2.5, 3.5, 1.75, 50),
            log10_latency_ms=Histogram(-1.0, 6.0, [0, 50, 2**40]),
            cpu_percent=12.5,
        )


def test_what_a_device_publishes_is_what_is_read_later(service: TelemetryService) -> None:
    (given,) = _windows(1)
    sent = to_proto(given, telemetry_pb2.TelemetryWindow).SerializeToString()
    parsed = parse_window(TOPIC, sent)
    assert parsed == given
    service.store([parsed])
    assert service.query()[0] == [parsed]


@only_on_sqlite
def test_it_is_stored_alike_whether_it_came_over_the_wire_or_not(service: TelemetryService, database: Database) -> None:
    made, second = _windows(2)
    parsed = parse_window(TOPIC, to_proto(second, telemetry_pb2.TelemetryWindow).SerializeToString())
    service.store([made, parsed])
    with database.engine.connect() as connection:
        kinds = connection.exec_driver_sql(
            "SELECT DISTINCT typeof(confidence), typeof(inputs), typeof(class_counts), length(latency_ms) FROM telemetry_window"
        ).fetchall()
    assert kinds == [("blob", "blob", "blob", 38)]
    assert service.query()[0] == [parsed, made]


@only_on_sqlite
def test_rows_that_an_earlier_version_wrote_as_json_are_read_and_added_to(
    service: TelemetryService, database: Database
) -> None:
    first, second = _windows(2)
    service.store([first])
    minutes = service.totals.series("digits", START, second.ended_at, 60)
    for table in ("telemetry_window", "telemetry_total"):
        texts = {name: getattr(first, name) for name in ("log10_latency_ms", "confidence", "inputs", "class_counts")}
        for name, value in texts.items():
            text = json.dumps(value, default=asdict)
            with database.engine.begin() as connection:
                connection.exec_driver_sql(f"UPDATE {table} SET {name} = ?", (text,))
    assert service.query()[0] == [first]
    assert service.totals.series("digits", START, second.ended_at, 60) == minutes
    service.store([second])
    ((whole,),) = service.totals.series("digits", START, second.ended_at, 3600).values()
    assert (whole.window_count, sum(whole.class_counts)) == (2, 100)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"inputs": {"brightness": {"high": float("-inf")}}}, "brightness"),
        ({"latency_ms": {"p50": float("inf")}}, "latency_ms"),
        ({"cpu_percent": float("inf")}, "cpu_percent"),
        ({"ended_at": {"seconds": 1 << 62}}, "ended_at"),
        ({"ended_at": {"seconds": 0, "nanos": -1}}, "ended_at"),
    ],
)
def test_what_could_be_stored_but_not_read_again_is_refused(damage: dict[str, object], said: str) -> None:
    (given,) = _windows(1)
    message = to_proto(given, telemetry_pb2.TelemetryWindow)
    message.MergeFrom(telemetry_pb2.TelemetryWindow(**damage))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=said):
        parse_window(TOPIC, message.SerializeToString())


def test_a_window_without_its_times_is_refused() -> None:
    message = telemetry_pb2.TelemetryWindow(device="pi-1", boot_id="boot")
    with pytest.raises(InvalidInput, match="times"):
        parse_window(TOPIC, message.SerializeToString())
