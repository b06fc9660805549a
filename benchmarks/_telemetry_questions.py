"""The dashboard's questions, asked over a table of millions of windows that is made beforehand."""

from __future__ import annotations

import random
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from milonga_hub.db import Database, utc_now
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import packed_counts, packed_histogram, packed_histograms
from milonga_hub.telemetry.models import (
    TelemetryQuarter,
    TelemetryQuartersAdded,
    TelemetryTotal,
    TelemetryWindow,
    TelemetryWindowRow,
)
from milonga_hub.telemetry.rules_quarters import QUARTER, packed_sum
from milonga_hub.telemetry.rules_retention import MINUTE
from milonga_hub.telemetry.rules_series import floored, summed
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.telemetry.totals import LEVELS

from benchmarks._telemetry_load import windows

ALERTS = "what every device did in the last two minutes (alerts ask this, in the background)"
_DEVICES = 10_000
_PROJECTS = 4
# Alerts ask every 15 s, and it takes seconds.
_ASKED, _ASKED_BY_ALERTS = 400, 5
_BATCH = 50_000
# How much of its past a project's chart is asked for, with the step that the page then takes.
_DAY, _WEEK = (timedelta(days=1), 900), (timedelta(days=7), 7200)


def measured(folder: Path, rows: int, say: Callable[[str], None]) -> Iterator[tuple[str, float]]:
    """Return each question with the 95th percentile of its time in milliseconds; the last is the alerts', not a page's."""
    database = Database(f"sqlite:///{folder / 'milonga.db'}")
    database.create_tables()
    database.engine.dispose()
    now = utc_now()
    _fill(folder / "milonga.db", rows, now, say)
    telemetry = TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy())
    chance = random.Random(0)

    def device() -> str:
        return _device(chance.randrange(_DEVICES))

    def project() -> str:
        return f"project-{chance.randrange(_PROJECTS)}"

    asked: dict[str, Callable[[], object]] = {
        "a device's newest 200 windows": lambda: telemetry.query(device=device(), page_size=200),
        "a project's newest 50 windows": lambda: telemetry.query(project=project(), page_size=50),
        "a device's last day": lambda: telemetry.series(device(), now - _DAY[0], now, _DAY[1]),
        "a project's last day": lambda: telemetry.totals.series(project(), now - _DAY[0], now, _DAY[1]),
        "a project's last week": lambda: telemetry.totals.series(project(), now - _WEEK[0], now, _WEEK[1]),
        ALERTS: lambda: telemetry.activity(now - timedelta(minutes=2)),
    }
    for words, ask in asked.items():
        waited, spent = [], []
        for _ in range(_ASKED_BY_ALERTS if words == ALERTS else _ASKED):
            began, busy = time.perf_counter(), time.process_time()
            ask()
            waited.append((time.perf_counter() - began) * 1e3)
            spent.append((time.process_time() - busy) * 1e3)
        p95 = statistics.quantiles(waited, n=20)[18]
        busy_p95 = statistics.quantiles(spent, n=20)[18]
        say(f"{words}: p95 {p95:.1f} ms, of CPU time {busy_p95:.1f} ms (median {statistics.median(spent):.1f} ms)")
        yield words, p95


def _device(number: int) -> str:
    return f"device-{number:05}"


def _time(moment: datetime) -> str:
    """As SQLAlchemy stores it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def _fill(path: Path, rows: int, now: datetime, say: Callable[[str], None]) -> None:
    """Write windows as a fleet leaves them behind: the newest as they came, older ones a minute and an hour long."""
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-500000;")
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f'DROP INDEX "{name}"')
    sample = next(windows("bench", 1))
    assert sample.log10_latency_ms is not None and sample.confidence is not None
    packed = {
        "log10_latency_ms": packed_histogram(sample.log10_latency_ms),
        "confidence": packed_histogram(sample.confidence),
        "class_counts": packed_counts(sample.class_counts),
        "inputs": packed_histograms(sample.inputs),
    }
    columns = [
        "device", "boot_id", "sequence", "started_at", "ended_at", "bundle", "model_version", "project", "request_count",
        "error_count", "log10_latency_ms", "confidence", "class_counts", "inputs", "cpu_percent", "memory_bytes",
        "temperature_celsius", "dropped_count", "received_at", "resolution_seconds",
    ]  # fmt: skip
    insert = f"INSERT INTO {TelemetryWindowRow.__tablename__} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    began = time.monotonic()
    batch: list[tuple[object, ...]] = []
    done = 0
    for sequence, (age, length) in enumerate(_ages(rows)):
        ended = now - timedelta(seconds=age)
        times = _time(ended - timedelta(seconds=length)), _time(ended), 0 if length < MINUTE else MINUTE
        batch += [_window(number, sequence, *times, sample.bundle, packed) for number in range(_DEVICES)]
        if len(batch) >= _BATCH or sequence + 1 == rows // _DEVICES:
            connection.executemany(insert, batch)
            done += len(batch)
            batch = []
            if done % 500_000 < _BATCH:
                say(f"{done:,} of {rows:,} windows written, {time.monotonic() - began:.0f} s")
    for _, sql in indexes:
        connection.execute(sql)
    say(f"indexes made, {time.monotonic() - began:.0f} s")
    connection.commit()
    _fill_totals(connection, now, packed)
    _fill_quarters(connection, rows, now, sample)
    say(f"quarters written, {time.monotonic() - began:.0f} s")
    connection.execute("ANALYZE")
    connection.commit()
    connection.close()


def _fill_quarters(connection: sqlite3.Connection, rows: int, now: datetime, sample: TelemetryWindow) -> None:
    """Write what the keeper has added up when it last came by: all but the windows of the last quarter of an hour, of each device."""
    waiting = QUARTER // 30
    begun = [now - timedelta(seconds=age + length) for age, length in _ages(rows)][:-waiting]
    counts = Counter(floored(each, QUARTER) for each in begun)
    columns = "device, started_at, window_id, window_count, figures"
    whole = {count: packed_sum(summed([sample] * count, now)) for count in {*counts.values()}}
    newest = (len(begun)) * _DEVICES
    insert = f"INSERT INTO {TelemetryQuarter.__tablename__} ({columns}) VALUES (?, ?, ?, ?, ?)"
    for number in range(_DEVICES):
        connection.executemany(
            insert,
            [(_device(number), _time(start), newest, count, whole[count]) for start, count in sorted(counts.items())],
        )
    connection.execute(
        f"INSERT INTO {TelemetryQuartersAdded.__tablename__} (id, window_id, since) VALUES (1, ?, ?)",
        (newest, _time(datetime.fromtimestamp(0, UTC))),
    )


def _ages(rows: int) -> list[tuple[int, int]]:
    """Return how many seconds ago each of a device's windows ended, and how long it is, the oldest first: the last hundred as they
    came, before that minutes."""
    count = rows // _DEVICES
    return [
        (30 * min(age, 100) + 60 * max(0, age - 100), 30 if age < 100 else MINUTE) for age in range(count - 1, -1, -1)
    ]


def _window(
    number: int, sequence: int, started_at: str, ended_at: str, resolution: int, bundle: str, packed: dict[str, bytes]
) -> tuple[object, ...]:
    project = f"project-{number % _PROJECTS}"
    histograms = (packed[name] for name in ("log10_latency_ms", "confidence", "class_counts", "inputs"))
    about = (_device(number), "boot", sequence, started_at, ended_at, bundle, f"models/{project}/versions/1", project)
    return *about, 300, 0, *histograms, 20.0, 200_000_000, 50.0, 0, ended_at, resolution


def _fill_totals(connection: sqlite3.Connection, now: datetime, packed: dict[str, bytes]) -> None:
    """Write the sums of two weeks, as they were added up when windows came."""
    rows: list[tuple[object, ...]] = []
    for step in LEVELS:
        first = int(now.timestamp()) // step * step
        for place in range(14 * 86_400 // step):
            started_at = _time(datetime.fromtimestamp(first - place * step, UTC))
            rows += [_total(f"project-{number}", step, started_at, packed) for number in range(_PROJECTS)]
    columns = [
        "project", "model_version", "step_seconds", "started_at", "window_count", "request_count", "error_count",
        "log10_latency_ms", "confidence", "class_counts", "inputs", "cpu_percent", "memory_bytes", "temperature_celsius",
    ]  # fmt: skip
    table = TelemetryTotal.__tablename__
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", rows)


def _total(project: str, step: int, started_at: str, packed: dict[str, bytes]) -> tuple[object, ...]:
    histograms = (packed[name] for name in ("log10_latency_ms", "confidence", "class_counts", "inputs"))
    counts = (1000, 300_000, 0)
    return project, f"models/{project}/versions/1", step, started_at, *counts, *histograms, 20.0, 200_000_000, 50.0
