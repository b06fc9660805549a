"""What devices did of late, summed from their windows as they are stored."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url
from tests.telemetry.windows import BUNDLE, START, window

OTHER = "sha256:" + "2" * 64


@pytest.fixture
def service(tmp_path: Path) -> TelemetryService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy())


def test_figures_are_of_the_bundle_that_a_device_served_last(service: TelemetryService) -> None:
    slow = Histogram(low=0.0, high=2.0, counts=[0, 10])
    fast = Histogram(low=0.0, high=2.0, counts=[10, 0])
    service.store(
        [
            window(0, bundle=OTHER, request_count=10, error_count=9, log10_latency_ms=slow),
            window(1, request_count=10, error_count=1, log10_latency_ms=fast, temperature_celsius=80.0),
            window(2, request_count=10, log10_latency_ms=fast, temperature_celsius=60.0),
            window(3, device="pi-2"),
        ]
    )
    active = service.activity(START)
    one = active["pi-1"]
    assert (one.bundle, one.request_count, one.error_count, one.temperature_celsius) == (BUNDLE, 20, 1, 60.0)
    assert one.median_ms == pytest.approx(10**0.5)
    assert (active["pi-2"].median_ms, active["pi-2"].temperature_celsius) == (None, None)


def test_machines_that_tell_say_how_often_they_were_throttled_and_what_they_draw(service: TelemetryService) -> None:
    well, held, watts = ({"throttled": [1, 0]}, {"throttled": [0, 1]}, {"power": [0, 1], "throttled": [0, 1]})
    service.store(
        [
            window(number, inputs={name: Histogram(0.0, 2.0, counts) for name, counts in each.items()})
            for number, each in enumerate((well, held, watts, {"brightness": [1, 0]}))
        ]
        + [window(0, device="pi-2")]
    )
    active = service.activity(START)
    assert active["pi-1"].throttled_share == pytest.approx(2 / 3)
    assert active["pi-1"].power_watts == pytest.approx(2**1.5)
    assert (active["pi-2"].throttled_share, active["pi-2"].power_watts) == (None, None)


def test_only_windows_that_ended_since_then_count(service: TelemetryService) -> None:
    service.store([window(number, request_count=1) for number in range(4)])
    assert service.activity(START + timedelta(seconds=90))["pi-1"].request_count == 2
    assert service.activity(START + timedelta(days=1)) == {}


def test_lost_windows_are_counted_since_then_and_by_boot(service: TelemetryService) -> None:
    service.store([window(0, dropped_count=5), window(1, dropped_count=7), window(2, boot_id="b", dropped_count=0)])
    assert service.activity(START)["pi-1"].dropped_count == 2
