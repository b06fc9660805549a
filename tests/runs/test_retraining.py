"""Policies start runs on drift, labels and schedule; cool-down, budget and quiet hours hold them back, whatever the clock does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.devices.service import DeviceService
from milonga_hub.events import EventBus
from milonga_hub.labelling.intake import SampleIntake
from milonga_hub.labelling.models import LabelledAccuracy
from milonga_hub.labelling.service import LabellingService
from milonga_hub.projects.models import AccuracyTrigger, DriftTrigger, ProjectSpec, RetrainingPolicy
from milonga_hub.projects.service import ProjectService
from milonga_hub.runs import rules_retraining
from milonga_hub.runs.models import DueRun, Run, RunState, Trigger
from milonga_hub.runs.rules import AUTOMATIC, ENDED
from milonga_hub.runs.rules_retraining import Accuracy, Evidence, Hold, Retraining, held_back
from milonga_hub.runs.service import RunService
from milonga_hub.runs.triggers import Triggers
from milonga_hub.settings import Settings
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.models import DriftEvent, Estimate
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url
from tests.datasets.test_datasets import _packed, _pictures
from tests.telemetry.windows import window

# A Thursday.
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ON_DRIFT = RetrainingPolicy(drift=DriftTrigger(enabled=True, quorum=2, min_new_labels=50), cool_down_seconds=60)
NIGHTLY = RetrainingPolicy(schedule="0 3 * * *", time_zone="Asia/Seoul")
NOTHING = Evidence(since=NOW)


def retraining_due(policy: RetrainingPolicy, evidence: Evidence, runs: list[Run], now: datetime) -> Retraining | None:
    """Return the run that starts now."""
    due = rules_retraining.retraining_due(policy, evidence, runs, now)
    return None if due is None or due.hold is not None else due.run


def _event(device: str, signal: str = "brightness") -> DriftEvent:
    return DriftEvent(
        id=f"{device}-{signal}", project="digits", device=device, model_version="v", signal=signal,
        statistic=0.5, threshold=0.25, p_value=1e-9, sample_count=300,
    )  # fmt: skip


def _ended(seconds_ago: float, trigger: Trigger = Trigger.DRIFT) -> Run:
    at = NOW - timedelta(seconds=seconds_ago)
    return Run(
        name="r", project="digits", number=1, state=RunState.SUCCEEDED, trigger=trigger, created_at=at, ended_at=at
    )


def _drifted(*devices: str, labels: int = 50) -> Evidence:
    return replace(NOTHING, drift=[_event(device) for device in devices], unlearned_labels=labels)


def test_drift_on_enough_devices_with_new_labels_calls_for_retraining() -> None:
    due = retraining_due(ON_DRIFT, _drifted("a", "b"), [_ended(61)], NOW)
    assert due is not None and due.trigger is Trigger.DRIFT and due.event_ids == ("a-brightness", "b-brightness")
    assert "a, b" in due.reason and "50 new labelled pictures" in due.reason


@pytest.mark.parametrize(
    ("evidence", "runs"),
    [
        (_drifted(labels=99), []),
        (replace(_drifted(labels=99), drift=[_event("a"), _event("a", "contrast")]), []),
        (_drifted("a", "b", labels=49), []),
        (_drifted("a", "b"), [_ended(59)]),
        (_drifted("a", "b"), [_ended(-3600)]),
        (_drifted("a", "b"), [Run(name="r", project="digits", number=1, state=RunState.RUNNING)]),
        (_drifted("a", "b"), [Run(name="r", project="digits", number=1, state=RunState.AWAITING_APPROVAL)]),
    ],
    ids=["no drift", "no quorum", "no labels", "cooling down", "clock set back", "a run in progress", "one to approve"],
)
def test_retraining_waits(evidence: Evidence, runs: list[Run]) -> None:
    assert retraining_due(ON_DRIFT, evidence, runs, NOW) is None


@pytest.mark.parametrize(
    ("drift", "evidence", "why"),
    [
        ({"quorum": 2}, _drifted("a"), "drift on 1 device(s); the quorum is 2"),
        ({"quorum": 9}, _drifted("a", "b"), "drift on 2 device(s); the quorum is 9, and the project has 8 in all"),
        (
            {"quorum": 2, "quorum_share": 0.5},
            _drifted("a", "b"),
            "drift on fewer than 2 device(s) of one type, or less than 50% of it",
        ),
        ({"min_new_labels": 50}, _drifted("a", labels=7), "7 of 50 new labelled pictures have come"),
    ],
)
def test_drift_that_starts_nothing_says_what_it_waits_for(drift: dict[str, Any], evidence: Evidence, why: str) -> None:
    policy = RetrainingPolicy(drift=DriftTrigger(enabled=True, **drift))
    fleet = {"pi5": ["a", "b", "c", "d", "e", "f"], "jetson": ["x", "y"]}
    due = rules_retraining.retraining_due(policy, replace(evidence, fleet=fleet), [], NOW)
    assert due is not None and due.run.trigger is Trigger.DRIFT and due.hold == Hold(why)


def test_a_policy_that_is_off_never_retrains() -> None:
    evidence = replace(_drifted("a", "b", labels=99), unasked_labels=99)
    assert retraining_due(RetrainingPolicy(), evidence, [], NOW) is None


def test_a_share_of_one_type_must_drift_where_that_is_asked_for() -> None:
    policy = RetrainingPolicy(drift=DriftTrigger(enabled=True, quorum=2, quorum_share=0.4))
    fleet = {"pi5": ["a", "b", "c", "d", "e", "f"], "jetson": ["x", "y"]}
    assert retraining_due(policy, replace(_drifted("a", "b", "x"), fleet=fleet), [], NOW) is None
    due = retraining_due(policy, replace(_drifted("a", "b", "c"), fleet=fleet), [], NOW)
    assert due is not None and "(3 of 6 pi5)" in due.reason


def test_enough_new_labels_start_a_run_without_drift() -> None:
    policy = RetrainingPolicy(new_labels=100)
    assert retraining_due(policy, replace(NOTHING, unasked_labels=99), [], NOW) is None
    due = retraining_due(policy, replace(NOTHING, unasked_labels=120, dataset_version="v7"), [], NOW)
    assert due == Retraining(Trigger.NEW_LABELS, "120 new labelled pictures (100 start a run)", "labels:v7")


def test_a_schedule_is_of_its_time_zone_and_missed_times_are_one_run() -> None:
    since = datetime(2025, 12, 28, 18, 0, tzinfo=UTC)  # 03:00 in Seoul, answered.
    tick = datetime(2025, 12, 29, 18, 0, tzinfo=UTC)
    evidence = replace(NOTHING, since=since)
    assert retraining_due(NIGHTLY, evidence, [], tick - timedelta(seconds=1)) is None
    due = retraining_due(NIGHTLY, evidence, [], NOW)
    assert due is not None and due.trigger is Trigger.SCHEDULE
    assert due.reason == "schedule '0 3 * * *', due since 2025-12-30 03:00 Asia/Seoul"
    assert retraining_due(NIGHTLY, replace(evidence, since=NOW), [], NOW) is None


def test_a_time_that_comes_twice_as_clocks_are_set_back_counts_once() -> None:
    policy = RetrainingPolicy(schedule="30 2 * * *", time_zone="Europe/Berlin")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert retraining_due(policy, Evidence(since=first - timedelta(seconds=1)), [], first) is not None
    assert retraining_due(policy, Evidence(since=first), [], first + timedelta(hours=24)) is None
    assert retraining_due(policy, Evidence(since=first), [], first + timedelta(hours=25)) is not None


def test_what_is_due_in_quiet_hours_starts_after_them() -> None:
    policy = NIGHTLY.model_copy(update={"quiet_hours": ["22:00-06:30"]})
    evidence = replace(NOTHING, since=NOW)
    six_in_seoul = datetime(2026, 1, 1, 21, 0, tzinfo=UTC)
    assert retraining_due(policy, evidence, [], six_in_seoul) is None
    assert retraining_due(policy, evidence, [], six_in_seoul + timedelta(minutes=30)) is not None


def test_one_run_answers_all_that_is_due_and_says_so() -> None:
    policy = ON_DRIFT.model_copy(update={"new_labels": 10, "schedule": "0 0 * * *"})
    evidence = replace(_drifted("a", "b"), unasked_labels=50, since=NOW - timedelta(days=1))
    due = retraining_due(policy, evidence, [], NOW)
    assert due is not None and due.trigger is Trigger.DRIFT
    assert all(word in due.reason for word in ("drift in brightness", "10 start a run", "schedule"))


def test_the_budget_counts_runs_that_started_by_themselves() -> None:
    policy = RetrainingPolicy(new_labels=1, cool_down_seconds=0, max_runs_per_day=1, max_runs_per_week=2)
    evidence = replace(NOTHING, unasked_labels=1)
    assert retraining_due(policy, evidence, [_ended(3600, Trigger.MANUAL)], NOW) is not None
    assert retraining_due(policy, evidence, [_ended(3600)], NOW) is None
    assert retraining_due(policy, evidence, [_ended(90_000)], NOW) is not None
    assert retraining_due(policy, evidence, [_ended(90_000), _ended(180_000)], NOW) is None


def _in_progress(state: RunState) -> Run:
    return Run(name="projects/digits/runs/7", project="digits", number=7, state=state)


@pytest.mark.parametrize(
    ("policy", "runs", "hold"),
    [
        ({"quiet_hours": ["11:00-13:00"]}, [], Hold("quiet hours, 11:00-13:00 (UTC)", NOW + timedelta(hours=1))),
        # The later end of hours that meet.
        (
            {"quiet_hours": ["11:00-13:00", "13:00-02:00"]},
            [],
            Hold("quiet hours, 11:00-13:00, 13:00-02:00 (UTC)", NOW + timedelta(hours=14)),
        ),
        ({"quiet_hours": ["00:00-12:00", "12:00-00:00"]}, [], Hold("quiet hours, 00:00-12:00, 12:00-00:00 (UTC)")),
        ({"cool_down_seconds": 60}, [_ended(20)], Hold("cool-down of 60 s", NOW + timedelta(seconds=40))),
        ({"max_runs_per_day": 1}, [_ended(7200)], Hold("budget of 1 in 24 hours", NOW + timedelta(hours=22))),
        (
            {},
            [_in_progress(RunState.AWAITING_APPROVAL)],
            Hold("run 7 waits for approval: milonga runs approve digits/7"),
        ),
        ({"max_runs_per_day": 1, "max_runs_per_week": 2}, [_ended(90_000)], None),
        ({}, [], None),
    ],
)
def test_it_is_known_what_holds_a_run_back_and_until_when(
    policy: dict[str, Any], runs: list[Run], hold: Hold | None
) -> None:
    given = RetrainingPolicy(**{"cool_down_seconds": 0, **policy})
    assert held_back(given, runs, NOW) == hold
    if hold is not None and hold.until is not None:
        assert held_back(given, runs, hold.until) is None


# What happens, and how far the clock goes or jumps before.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 7_200) | st.integers(-200_000, 300_000),
        st.sampled_from(["drift", "labels", "end", "end", "by hand", "nothing"]),
    ),
    max_size=60,
)


@given(
    STEPS,
    st.sampled_from([0, 600, 100_000]),
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(0, 23),
    st.integers(1, 23),
)
def test_nothing_starts_in_quiet_hours_or_the_cool_down_or_beyond_the_budget(
    steps: list[tuple[int, str]], cool_down: int, a_day: int, a_week: int, quiet_from: int, quiet_hours: int
) -> None:
    policy = RetrainingPolicy(
        drift=DriftTrigger(enabled=True),
        new_labels=10,
        schedule="30 */6 * * *",
        cool_down_seconds=float(cool_down),
        max_runs_per_day=a_day,
        max_runs_per_week=a_week,
        quiet_hours=[f"{quiet_from:02}:00-{(quiet_from + quiet_hours) % 24:02}:00"],
    )
    now, runs, labels, events = NOW, list[Run](), 0, list[DriftEvent]()
    for number, (seconds, what) in enumerate(steps):
        now += timedelta(seconds=seconds)
        if what == "drift":
            events.append(_event(f"d{number}"))
        elif what == "labels":
            labels += 10
        elif what == "by hand":
            runs.append(_started(number, Trigger.MANUAL, now))
        elif what == "end":
            for run in runs:
                run.state, run.ended_at = RunState.SUCCEEDED, run.ended_at or now
        since = max((run.created_at for run in runs), default=NOW)
        due = retraining_due(policy, Evidence(since, events, {}, labels, labels), runs, now)
        if due is None:
            continue
        assert (now.hour - quiet_from) % 24 >= quiet_hours
        assert all(run.state in ENDED and run.ended_at is not None for run in runs)
        assert all(now - run.ended_at >= timedelta(seconds=cool_down) for run in runs if run.ended_at)
        runs.append(_started(number, due.trigger, now))
        made = [run.created_at for run in runs if run.trigger in AUTOMATIC]
        assert not a_day or sum(at > now - timedelta(days=1) for at in made) <= a_day
        assert not a_week or sum(at > now - timedelta(days=7) for at in made) <= a_week
        events, labels = [], 0


def _started(number: int, trigger: Trigger, now: datetime) -> Run:
    return Run(
        name=f"r{number}", project="digits", number=number, state=RunState.RUNNING, trigger=trigger, created_at=now
    )


class World:
    """A hub's policies on real tables, with a data set that grows."""

    def __init__(self, folder: Path) -> None:
        database = Database(database_url(folder / "test.db"))
        database.create_tables()
        events = EventBus()
        self.folder = folder
        self.datasets = DatasetService(database, BlobStore(folder / "blobs"), events)
        self.label(seed=0)
        self.projects = ProjectService(database, events, self.datasets)
        self.runs = RunService(database, events, self.projects)
        self.telemetry = TelemetryService(
            database,
            events,
            lambda bundle: {"confidence": [100] * 20, "confidence_right": [5 * i for i in range(20)]},
            lambda name: self.projects.get(name).spec.retraining.drift_policy,
        )
        devices = DeviceService(database, events, Settings(data=folder))
        blobs, intake = (
            BlobStore(folder / "blobs"),
            SampleIntake(database, events, devices, self.projects, BlobStore(folder / "samples")),
        )
        labelling = LabellingService(database, events, self.projects, self.datasets, blobs, intake)
        self.triggers = Triggers(events, self.projects, self.datasets, devices, self.telemetry, labelling, self.runs)
        self.look = self.triggers.look

    def label(self, seed: int) -> None:
        self.datasets.import_archive(
            "digits", _packed(_pictures(self.folder / str(seed), start=60 * seed)), seed > 0, False
        )

    def apply(self, policy: RetrainingPolicy) -> None:
        self.projects.apply("digits", ProjectSpec(dataset="digits", retraining=policy))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_new_labels_start_one_run_until_there_are_as_many_again(world: World) -> None:
    world.apply(RetrainingPolicy(new_labels=5, cool_down_seconds=0.0, approval=True))
    assert world.look() == []
    world.label(seed=1)
    (run,) = world.look()
    assert (run.trigger, run.state) == (Trigger.NEW_LABELS, RunState.AWAITING_APPROVAL)
    assert world.look() == []
    world.runs.refuse(run.name)
    assert world.look() == []
    world.label(seed=2)
    assert [again.number for again in world.look()] == [2]


def test_a_run_that_is_due_and_has_to_wait_is_told_of_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "milonga_hub.runs.triggers")
    now = datetime.now(UTC)
    quiet = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=2):%H:%M}"
    world.apply(RetrainingPolicy(new_labels=5, quiet_hours=[quiet]))
    assert world.look() == [] and not caplog.messages
    world.label(seed=1)
    assert world.look() == [] and world.look() == []
    (told,) = caplog.messages
    assert told.startswith("a run of digits is due (60 new labelled pictures (5 start a run)) and waits until ")
    assert told.endswith(f" UTC: quiet hours, {quiet} (UTC)")


def test_who_asks_is_told_which_run_is_due_and_what_holds_it_back(world: World) -> None:
    world.apply(RetrainingPolicy(new_labels=5, cool_down_seconds=600))
    assert world.triggers.due_run("digits") is None
    world.label(seed=1)
    due = DueRun(trigger=Trigger.NEW_LABELS, reason="60 new labelled pictures (5 start a run)")
    assert world.triggers.due_run("digits") == due
    (run,) = world.look()
    world.label(seed=2)
    waiting = world.triggers.due_run("digits")
    assert waiting is not None and (waiting.held_back_by, waiting.held_back_until) == ("run 1 has not ended yet", None)
    ended_at = world.runs.end(run.name, RunState.SUCCEEDED).ended_at
    waiting = world.triggers.due_run("digits")
    assert waiting is not None and waiting.held_back_by == "cool-down of 600 s"
    assert ended_at is not None and waiting.held_back_until == ended_at + timedelta(seconds=600)


def test_a_project_that_trains_nothing_is_watched_for_drift_and_starts_no_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    watched = RetrainingPolicy(drift=DriftTrigger(enabled=True, min_samples=100))
    world.projects.apply("digits", ProjectSpec(retraining=watched))
    unsure = Histogram(low=0.0, high=1.0, counts=[100, *[0] * 19])
    world.telemetry.store([window(i, request_count=100, confidence=unsure) for i in range(8)])
    assert {event.signal for event in world.telemetry.unanswered("digits")} == {"confidence"}
    assert world.look() == [] and world.triggers.due_run("digits") is None and not caplog.messages


def test_a_schedule_starts_a_run_when_its_time_has_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply(RetrainingPolicy(schedule="0 3 * * *"))
    assert world.look() == []
    later: Callable[[], datetime] = lambda: datetime.now(UTC) + timedelta(days=1)  # noqa: E731
    monkeypatch.setattr("milonga_hub.runs.triggers.utc_now", later)
    (run,) = world.look()
    assert run.trigger is Trigger.SCHEDULE and "0 3 * * *" in run.reason
    assert world.look() == []


def test_accuracy_that_is_too_low_starts_one_run_for_each_state_of_the_data_set(world: World) -> None:
    world.apply(RetrainingPolicy(accuracy=AccuracyTrigger(below=0.8), cool_down_seconds=0.0, approval=True))
    unsure = Histogram(low=0.0, high=1.0, counts=[0] * 10 + [500] + [0] * 9)
    world.telemetry.store([window(0, confidence=unsure, request_count=499)])
    (run,) = world.look()
    assert run.trigger is Trigger.ACCURACY
    assert "about 50.0% of 500 answers of models/digits/versions/1 are right" in run.reason
    assert "80.0% asked for" in run.reason
    world.runs.refuse(run.name)
    assert world.look() == []
    world.label(seed=1)
    assert [again.number for again in world.look()] == [2]


def test_accuracy_starts_nothing_while_its_interval_reaches_what_is_asked_for() -> None:
    policy = RetrainingPolicy(accuracy=AccuracyTrigger(below=0.8, min_samples=100), cool_down_seconds=0.0)

    def due(high: float, count: int) -> bool:
        found = Accuracy("models/digits/versions/1", Estimate(0.7, 0.6, high, count, 0.9))
        return retraining_due(policy, replace(NOTHING, accuracy=found), [], NOW) is not None

    assert due(0.79, 100)
    assert not due(0.81, 100)
    assert not due(0.79, 99)


def test_labels_decide_where_there_are_enough_of_them() -> None:
    policy = RetrainingPolicy(accuracy=AccuracyTrigger(below=0.8), cool_down_seconds=0.0)

    def reason(right: int, labelled: int, estimated_high: float) -> str:
        labels = LabelledAccuracy(
            device_type="",
            labelled=labelled,
            right=right,
            accuracy=right / labelled,
            low=0.0,
            high=right / labelled + 0.1,
        )
        found = Accuracy("models/digits/versions/1", Estimate(0.7, 0.6, estimated_high, 1000, 0.9), labels)
        due = retraining_due(policy, replace(NOTHING, accuracy=found), [], NOW)
        return due.reason if due is not None else ""

    assert reason(28, 50, 0.9).startswith("28 of 50 labelled answers of models/digits/versions/1 are right")
    assert reason(45, 50, 0.7) == ""
    # An interval for one look would say so, and each label is a look.
    assert reason(32, 50, 0.7) == ""
    assert "by its confidence" in reason(45, 49, 0.7)


def test_a_slow_or_failing_device_starts_no_run(world: World) -> None:
    world.apply(RetrainingPolicy(drift=DriftTrigger(enabled=True), cool_down_seconds=0.0))
    bad = [window(i, request_count=100, error_count=60) for i in range(3)]
    world.telemetry.store(bad)
    assert [event.signal for event in world.telemetry.unanswered("digits")] == ["errors"]
    assert world.look() == []
