"""Windows are kept once, asked for in pages, and judged as they come in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from milonga.pictures import histogram as picture_histogram
from milonga.v1 import telemetry_pb2
from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftMethod, DriftPolicy, DriftReference
from milonga_hub.telemetry import detectors
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rpc import TelemetryRpc
from milonga_hub.telemetry.rules_watching import Watched, after
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url, only_on_sqlite
from tests.telemetry.windows import (
    BUNDLE,
    START,
    beta_counts,
    histogram,
    plausible_counts,
    reference_of,
    window,
    window_of,
)

POLICY = DriftPolicy(enabled=True, min_samples=200, threshold=0.25, cool_down_seconds=3600)


class World:
    """A service with a clock that stands still until it is moved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = POLICY
        self.random = np.random.default_rng(11)
        self.reference: Mapping[str, Any] | None = reference_of(plausible_counts(self.random, 1000))
        self.now = START
        self.events = EventBus()
        self.database = Database(database_url(folder / "test.db"))
        self.database.create_tables()
        self.restart()

    def restart(self) -> None:
        self.service = TelemetryService(
            self.database, self.events, lambda bundle: self.reference, self.policy_of, self.clock
        )

    def clock(self) -> datetime:
        return self.now

    def policy_of(self, project: str) -> DriftPolicy:
        if project != "digits":
            raise NotFound(project)
        return self.policy

    def dark(self, sequence: int, size: int = 250, **values: Any) -> Any:
        counts = {**plausible_counts(self.random, size), "brightness": beta_counts(self.random, size, 2, 60)}
        return window_of(counts, sequence, **values)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_window_that_comes_twice_is_kept_once(world: World) -> None:
    assert len(world.service.store([window(1), window(2), window(1)])) == 2
    assert [row.sequence for row in world.service.store([window(2), window(3)])] == [3]
    stored, _ = world.service.query()
    assert [row.sequence for row in stored] == [3, 2, 1]


def test_the_same_sequence_after_a_restart_of_the_agent_is_another_window(world: World) -> None:
    assert len(world.service.store([window(1), window(1, boot_id="other"), window(1, device="pi-2")])) == 3


def test_a_window_keeps_all_its_figures(world: World) -> None:
    given = world.dark(4, cpu_percent=12.5, temperature_celsius=None, memory_bytes=2**40, dropped_count=3)
    world.service.store([given])
    (row,), _ = world.service.query()
    assert row == given
    assert (row.id, row.received_at) == (1, START)


def test_pages_go_from_new_to_old_and_stay_right_while_windows_come_in(world: World) -> None:
    world.service.store([window(i) for i in range(5)])
    first, token = world.service.query(page_size=2)
    world.service.store([window(9)])
    second, token = world.service.query(page_size=2, page_token=token)
    third, token = world.service.query(page_size=2, page_token=token)
    assert [row.sequence for row in (*first, *second, *third)] == [4, 3, 2, 1, 0]
    assert token == ""


def test_windows_are_found_by_device_project_and_time(world: World) -> None:
    world.service.store([window(0), window(1, device="pi-2"), window(2, project="other"), window(3)])
    assert [row.sequence for row in world.service.query(device="pi-2")[0]] == [1]
    assert [row.sequence for row in world.service.query(project="other")[0]] == [2]
    assert [row.sequence for row in world.service.query(since=START + timedelta(seconds=60))[0]] == [3, 2]


def test_many_windows_are_stored_in_one_go(world: World) -> None:
    assert len(world.service.store([window(i) for i in range(1201)])) == 1201


def test_drift_raises_one_event_until_it_is_answered_and_the_cool_down_is_over(world: World) -> None:
    world.service.store([world.dark(0)])
    world.service.store([world.dark(1), world.dark(2)])
    (event,), _ = world.service.drift_events("digits")
    assert (event.device, event.signal, event.triggered_run) == ("pi-1", "brightness", "")
    assert "pi-1: brightness of 250 answers is unlike the validation pictures" in event.message
    assert event.began_at == START
    assert world.service.unanswered("digits") == [event]

    world.service.answer([event.id], "projects/digits/runs/2")
    assert world.service.unanswered("digits") == []
    world.service.store([world.dark(3)])
    assert len(world.service.drift_events("digits")[0]) == 1
    world.now += timedelta(seconds=3601)
    world.service.store([world.dark(4)])
    newest, answered = world.service.drift_events("digits")[0]
    assert (newest.triggered_run, answered.triggered_run) == ("", "projects/digits/runs/2")


def test_each_device_and_each_model_version_has_its_own_event(world: World) -> None:
    world.service.store([world.dark(0), world.dark(0, device="pi-2")])
    world.service.store([world.dark(1, model_version="models/digits/versions/2", bundle="sha256:" + "2" * 64)])
    events, _ = world.service.drift_events("digits")
    assert len({(event.device, event.model_version) for event in events}) == len(events) == 3


def test_drift_of_a_model_that_is_no_longer_served_needs_no_answer(world: World) -> None:
    world.service.store([world.dark(0)])
    world.service.store([window(1, model_version="models/digits/versions/2", bundle="sha256:" + "2" * 64)])
    assert world.service.unanswered("digits") == []
    assert len(world.service.drift_events("digits")[0]) == 1


def test_windows_without_drift_raise_nothing(world: World) -> None:
    world.service.store([window_of(plausible_counts(world.random, 250), i) for i in range(20)])
    assert world.service.drift_events()[0] == []


def test_a_spool_that_arrives_late_does_not_pass_for_the_present(world: World) -> None:
    world.service.store([window_of(plausible_counts(world.random, 250), 50)])
    world.service.store([world.dark(1)])
    assert world.service.drift_events()[0] == []


def test_windows_of_unknown_projects_and_bundles_are_kept_without_judgement(world: World) -> None:
    world.service.store([world.dark(0, project="gone"), world.dark(1, bundle="")])
    world.reference = None
    world.service.store([world.dark(2)])
    assert len(world.service.query()[0]) == 3
    assert world.service.drift_events()[0] == []


async def _collect(world: World) -> list[tuple[str, int]]:
    rpc = TelemetryRpc(world.service, world.events)
    world.service.store([window(0)])
    seen = []
    stream = rpc.WatchTelemetry(telemetry_pb2.WatchTelemetryRequest(device="pi-1"), None)
    async for response in stream:
        seen.append((response.window.device, response.window.sequence))
        if len(seen) == 3:
            break
        world.service.store([window(len(seen)), window(len(seen), device="pi-10")])
    await stream.aclose()  # type: ignore[attr-defined]
    return seen


def test_watching_a_device_shows_its_newest_window_and_then_each_new_one(world: World) -> None:
    assert asyncio.run(_collect(world)) == [("pi-1", 0), ("pi-1", 1), ("pi-1", 2)]


async def _since(world: World) -> list[int]:
    rpc = TelemetryRpc(world.service, world.events)
    world.service.store([window(0), window(1), window(2), window(2, device="pi-10")])
    since = telemetry_pb2.TelemetryWindow()
    since.started_at.FromDatetime(window(1).started_at)
    request = telemetry_pb2.WatchTelemetryRequest(device="pi-1", since=since.started_at)
    stream = rpc.WatchTelemetry(request, None)
    seen = [(await anext(stream)).window.sequence for _ in range(2)]
    # News of all but the last of them is lost: a listener that is slow hears of the newest alone.
    world.service.store([window(number) for number in range(3, 8)])
    seen += [(await anext(stream)).window.sequence for _ in range(5)]
    await stream.aclose()  # type: ignore[attr-defined]
    return seen


def test_watching_since_a_time_shows_all_windows_once_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milonga_hub.telemetry.rpc._STORED_AT_ONCE", 2)
    assert asyncio.run(_since(world)) == list(range(1, 8))


def test_queries_over_grpc_carry_windows_events_and_tokens(world: World) -> None:
    rpc = TelemetryRpc(world.service, world.events)
    world.service.store([world.dark(0), world.dark(1)])
    first = asyncio.run(rpc.QueryTelemetry(telemetry_pb2.QueryTelemetryRequest(page_size=1), None))
    assert first.windows[0].bundle == BUNDLE
    request = telemetry_pb2.QueryTelemetryRequest(page_size=1, page_token=first.next_page_token)
    assert asyncio.run(rpc.QueryTelemetry(request, None)).windows[0].sequence == 0
    events = asyncio.run(rpc.ListDriftEvents(telemetry_pb2.ListDriftEventsRequest(project="digits"), None))
    assert events.drift_events[0].signal == "brightness"
    with pytest.raises(InvalidInput, match="page_token"):
        asyncio.run(rpc.QueryTelemetry(telemetry_pb2.QueryTelemetryRequest(page_token="?"), None))


def test_new_drift_is_news(world: World) -> None:
    async def first_news() -> str:
        with world.events.listen("drift/digits") as events:
            await asyncio.to_thread(world.service.store, [world.dark(0)])
            return str((await events.next(5)).payload.signal)

    assert asyncio.run(first_news()) == "brightness"


def test_stored_rows_are_telemetry_windows(world: World) -> None:
    (row,) = world.service.store([window(0)])
    assert isinstance(row, TelemetryWindow)
    assert row.received_at == START


def test_drift_that_goes_away_ends_its_event_and_asks_for_no_answer(world: World) -> None:
    world.service.store([world.dark(0)])
    (event,) = world.service.unanswered("digits")
    world.now += timedelta(seconds=120)
    world.service.store([window_of(plausible_counts(world.random, 250), i) for i in range(1, 4)])
    assert world.service.unanswered("digits") == []
    (ended,), _ = world.service.drift_events("digits")
    assert (ended.id, ended.ended_at) == (event.id, world.now)
    world.service.store([world.dark(4)])
    assert len(world.service.unanswered("digits")) == 1


def test_a_hub_that_starts_again_goes_on_from_what_it_knew(world: World) -> None:
    faint = [beta_counts(world.random, 40, 9, 13) for _ in range(40)]
    windows = [
        window_of({**plausible_counts(world.random, 40), "brightness": one}, place) for place, one in enumerate(faint)
    ]

    def detected(restarts: bool) -> int:
        folder = world.folder / str(restarts)
        folder.mkdir()
        other = World(folder)
        for place, one in enumerate(windows):
            if restarts:
                other.restart()
            other.service.store([one])
            if other.service.drift_events("digits")[0]:
                return place
        raise AssertionError("the drift was not found")

    assert detected(restarts=True) == detected(restarts=False) > 0


def test_a_hub_that_starts_again_looks_at_windows_of_a_device_that_drifted_a_few_times_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(80):
        world.service.store([world.dark(place)])
    assert world.service.drift_events("digits")[0]
    looks: list[TelemetryWindow] = []

    def counted(seen: Watched, policy: DriftPolicy, one: TelemetryWindow) -> Watched:
        looks.append(one)
        return after(seen, policy, one)

    monkeypatch.setattr(detectors, "after", counted)
    world.restart()
    world.service.store([world.dark(80)])
    # It drifts anew with every window or two; nothing is stored meanwhile.
    assert 80 < len(looks) < 4 * 80


@pytest.mark.parametrize("reference", [*DriftReference])
def test_a_hub_that_starts_again_goes_on_from_what_it_kept_without_the_windows_of_before(
    world: World, reference: DriftReference
) -> None:
    world.policy = POLICY.model_copy(update={"reference": reference})
    before = [window_of(plausible_counts(world.random, 40), place) for place in range(60)]
    faint = [beta_counts(world.random, 40, 9, 13) for _ in range(60)]
    after = [
        window_of({**plausible_counts(world.random, 40), "brightness": one}, place)
        for place, one in enumerate(faint, 60)
    ]

    def detected(restarts: bool) -> int:
        folder = world.folder / str(restarts)
        folder.mkdir()
        other = World(folder)
        other.policy = world.policy
        for one in before:
            other.now = one.ended_at
            other.service.store([replace(one)])
        for place, one in enumerate(after):
            other.now = one.ended_at
            if restarts and place == 4:
                # What it kept last is of the fourth quarter of an hour at the earliest.
                with other.database.session() as session:
                    kept = session.connection().execute(sa.text("SELECT window_id FROM drift_watch")).scalar_one()
                    assert kept > 30
                    session.connection().execute(
                        sa.text("DELETE FROM telemetry_window WHERE id < :kept"), {"kept": kept}
                    )
                other.restart()
            other.service.store([replace(one)])
            if other.service.drift_events("digits")[0]:
                return place
        raise AssertionError("the drift was not found")

    assert detected(restarts=True) == detected(restarts=False) > 4


def test_devices_that_tell_at_once_are_judged_as_if_each_told_alone(world: World) -> None:
    def windows(device: int) -> list[TelemetryWindow]:
        random = np.random.default_rng(device)
        found = []
        for place in range(30):
            counts = plausible_counts(random, 60)
            if device % 3 == 0 and place >= 10:
                counts = {**counts, "brightness": beta_counts(random, 60, 9, 12 - device)}
            found.append(window_of(counts, place, device=f"pi-{device}"))
        return found

    fleet = [windows(device) for device in range(6)]
    for together in zip(*fleet, strict=True):
        world.service.store([replace(one) for one in together])
    found = {(one.device, one.signal, one.sample_count) for one in world.service.drift_events("digits")[0]}
    (world.folder / "alone").mkdir()
    alone = World(world.folder / "alone")
    for together in zip(*fleet, strict=True):
        for one in together:
            alone.service.store([replace(one)])
    assert found == {(one.device, one.signal, one.sample_count) for one in alone.service.drift_events("digits")[0]}
    assert {device for device, _, _ in found} == {"pi-0", "pi-3"}


def test_a_device_that_changes_its_bundle_within_a_batch_is_judged_by_each(world: World) -> None:
    other = "sha256:" + "2" * 64
    windows = [world.dark(place, bundle=BUNDLE if place < 3 else other) for place in range(6)]
    world.service.store(windows)
    (event,) = [one for one in world.service.drift_events("digits")[0] if one.signal == "brightness"]
    assert event.sample_count == 750


def test_requests_that_become_slow_or_fail_are_told_with_what_is_allowed(world: World) -> None:
    def served(sequence: int, milliseconds: float, errors: int = 0) -> Any:
        latencies = list(np.log10(world.random.normal(milliseconds, 0.05 * milliseconds, 100)))
        counts = histogram("log10_latency_ms", picture_histogram("log10_latency_ms", latencies))
        given = window_of(plausible_counts(world.random, 100), sequence, log10_latency_ms=counts)
        return replace(given, request_count=100 + errors, error_count=errors)

    world.service.store([served(0, 300.0), *(served(i, 20.0) for i in range(1, 8))])
    assert world.service.drift_events("digits")[0] == []
    world.service.store([served(8, 40.0, errors=60), served(9, 40.0, errors=60)])
    events, _ = world.service.drift_events("digits")
    assert {event.signal for event in events} == {"latency", "errors"}
    slow = next(event for event in events if event.signal == "latency")
    assert "of 200 requests took longer than 2" in slow.message
    assert slow.threshold == 0.25


def test_a_device_may_be_held_against_its_own_first_windows(world: World) -> None:
    world.policy = POLICY.model_copy(update={"reference": DriftReference.FIRST_WINDOWS})
    world.service.store([world.dark(i, 100) for i in range(30)])
    assert world.service.drift_events("digits")[0] == []
    world.service.store([window_of(plausible_counts(world.random, 100), i) for i in range(30, 34)])
    (event,), _ = world.service.drift_events("digits")
    assert "unlike those of its first windows" in event.message


def test_a_threshold_on_the_newest_windows_can_still_be_had(world: World) -> None:
    world.policy = POLICY.model_copy(update={"method": DriftMethod.THRESHOLD})
    world.service.store([world.dark(0)])
    (event,), _ = world.service.drift_events("digits")
    assert "pi-1: brightness of the last" in event.message
    assert event.began_at is None


@only_on_sqlite
def test_what_devices_did_of_late_is_found_by_the_age_of_windows(world: World) -> None:
    """In place of reading all there are: a fleet has millions."""
    world.service.store([window(i) for i in range(5)])
    asked: list[tuple[str, Any]] = []
    engine = world.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, text, values, *_: asked.append((text, values)))
    assert set(world.service.activity(START)) == {"pi-1"}
    (statement, values) = next(one for one in asked if one[0].startswith("SELECT"))
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
    assert "USING" in plan[0][-1] and "INDEX" in plan[0][-1], plan
