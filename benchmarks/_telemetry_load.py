"""The processes of the telemetry benchmark beside brokers: a hub's telemetry, and one that inserts windows one by one.

python -m benchmarks._telemetry_load hub FOLDER BROKER    takes windows off a broker that it runs; prints where it listens
                                                          (BROKER:IDLE lets IDLE more devices in, who only connect;
                                                          BROKER:IDLE:drift judges each window for drift)
python -m benchmarks._telemetry_load orm FOLDER COUNT     inserts windows with the ORM, one commit each; prints CPU seconds
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from milonga.pictures import BINS, INPUTS
from milonga.v1 import telemetry_pb2
from milonga_hub.bridge import to_proto
from milonga_hub.collecting import leave_what_stays
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.service import DeviceService
from milonga_hub.devices.values import Enrolment
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.settings import Settings
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.intake import TelemetryIntake
from milonga_hub.telemetry.messages import parse_window
from milonga_hub.telemetry.models import TelemetryWindow, TelemetryWindowRow, TelemetryWindowView
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.transports.brokers import chosen

from tests.certificates import Key

PUBLISHERS = 20
CLASSES = 10
_ANSWERS = 300
_SECONDS = 30.0


def names() -> list[str]:
    return [f"bench-{number:02}" for number in range(PUBLISHERS)]


def idle_names(count: int) -> list[str]:
    return [f"idle-{number:04}" for number in range(count)]


def reference() -> dict[str, Any]:
    """Return histograms of validation pictures, which windows are held against where a project wants to know of drift."""
    counts = _counts(np.random.default_rng(0), 2000)
    return {**counts, "class_counts": counts.pop("class_counts")}


def _counts(random: np.random.Generator, size: int) -> dict[str, list[int]]:
    shares = {
        "confidence": (8, 0.7),
        "brightness": (9, 20),
        "contrast": (30, 12),
        "sharpness": (20, 20),
        "chroma": (6, 20),
        "warmth": (40, 36),
        "size": (60, 40),
    }
    found = {
        name: [int(n) for n in np.histogram(random.beta(*shape, size), bins=20, range=(0, 1))[0]]
        for name, shape in shares.items()
    }
    return {**found, "class_counts": [int(n) for n in random.multinomial(size, [1 / CLASSES] * CLASSES)]}


def windows(device: str, count: int) -> Iterator[TelemetryWindow]:
    """Return windows as an agent of a small classifier sends them, of the last while."""
    random = np.random.default_rng(abs(hash(device)) % 1000)
    variants = [_counts(random, _ANSWERS) for _ in range(20)]
    low, high, bins = BINS["log10_latency_ms"]
    latencies = [int(n) for n in np.histogram(random.normal(1.0, 0.05, _ANSWERS), bins=bins, range=(low, high))[0]]
    began = utc_now() - timedelta(seconds=_SECONDS * count)
    for sequence in range(count):
        counts = variants[sequence % len(variants)]
        started = began + timedelta(seconds=_SECONDS * sequence)
        yield TelemetryWindow(
            device=device, boot_id="bench", sequence=sequence, started_at=started,
            ended_at=started + timedelta(seconds=_SECONDS), bundle="sha256:" + "1" * 64,
            model_version="models/bench/versions/1", project="bench", request_count=_ANSWERS,
            log10_latency_ms=Histogram(low=low, high=high, counts=latencies), class_counts=counts["class_counts"],
            confidence=_histogram("confidence", counts), inputs={n: _histogram(n, counts) for n in INPUTS},
            cpu_percent=20.0, memory_bytes=200_000_000, temperature_celsius=50.0,
        )  # fmt: skip


def _histogram(name: str, counts: dict[str, list[int]]) -> Histogram:
    low, high, _ = BINS[name]
    return Histogram(low=low, high=high, counts=counts[name])


def payloads(device: str, count: int) -> list[bytes]:
    return [bytes(to_proto(each, telemetry_pb2.TelemetryWindow).SerializeToString()) for each in windows(device, count)]


async def _serve(folder: Path, kind: str, idle: int, policy: DriftPolicy) -> None:
    settings = Settings(data_dir=folder, broker=kind, host="127.0.0.1", mqtt_port=0)
    database = Database(settings.resolved_database_url)
    database.create_tables()
    devices = DeviceService(database, EventBus(), settings)
    credentials = folder / "credentials"
    credentials.mkdir()
    _, token = devices.create_join_token({}, PUBLISHERS + idle)
    for name in (*names(), *idle_names(idle)):
        key = Key()
        enrolled = devices.enrol(Enrolment(token, name, Inventory(), "bench", True, {}, key.request()))
        (credentials / f"{name}.pem").write_bytes(key.pem + enrolled.certificate.encode())
    (credentials / "authority.pem").write_bytes(devices.authority.certificate)
    telemetry = TelemetryService(database, EventBus(), lambda bundle: reference(), lambda project: policy)
    choice = chosen(settings, devices.authority, devices.authenticate, devices.certificates, lambda device: None)
    endpoint = await choice.broker.start("127.0.0.1", 0, ())
    await TelemetryIntake(telemetry.store, telemetry.examine, telemetry.refusals).start(endpoint)
    # As the hub does.
    leave_what_stays()
    print(json.dumps({"port": endpoint.port, "broker_pid": getattr(choice.broker, "pid", None)}), flush=True)
    await asyncio.Event().wait()


def _insert(folder: Path, count: int) -> None:
    database = Database(f"sqlite:///{folder / 'orm.db'}")
    database.create_tables()
    received = [(f"milonga/v1/{names()[0]}/telemetry", each) for each in payloads(names()[0], count)]
    began = time.process_time()
    for topic, payload in received:
        window = parse_window(topic, payload)
        with database.session() as session:
            session.add(
                TelemetryWindowRow(**{name: getattr(window, name) for name in TelemetryWindowView.model_fields})
            )
    print(time.process_time() - began, flush=True)


def main(arguments: Sequence[str]) -> None:
    what, folder, last = arguments
    if what == "hub":
        kind, idle, *drift = last.split(":")
        asyncio.run(_serve(Path(folder), kind, int(idle), DriftPolicy(enabled=bool(drift))))
    else:
        _insert(Path(folder), int(last))


if __name__ == "__main__":
    main(sys.argv[1:])
