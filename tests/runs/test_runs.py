"""Runs: one at a time for each project, going on after anything; some wait for a person first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.jobs import JobCrashed
from milonga_hub.projects.models import Limits, ProjectSpec, RetrainingPolicy
from milonga_hub.projects.service import ProjectService
from milonga_hub.runs.executor import MAX_CRASHES, Executor
from milonga_hub.runs.models import Run, RunState, StageState, Trigger
from milonga_hub.runs.rules import tightest
from milonga_hub.runs.service import RunService
from milonga_hub.runs.stages import Report, stage

from tests.databases import database_url
from tests.datasets.test_datasets import _packed, _pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _packed(_pictures(tmp_path_factory.mktemp("pictures") / "a"))


@pytest.fixture
def runs(tmp_path: Path, pictures: Path) -> RunService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    events = EventBus()
    datasets = DatasetService(database, BlobStore(tmp_path / "blobs"), events)
    datasets.import_archive("digits", pictures, False, False)
    projects = ProjectService(database, events, datasets)
    for name in ("digits", "other"):
        projects.apply(name, ProjectSpec(dataset="digits"))
    projects.apply("careful", ProjectSpec(dataset="digits", retraining=RetrainingPolicy(approval=True)))
    return RunService(database, events, projects)


def test_limits_of_a_type_hold_for_each_of_its_devices() -> None:
    assert tightest([Limits(latency_ms=5), Limits(latency_ms=3, model_bytes=9), Limits()]) == Limits(
        latency_ms=3, model_bytes=9
    )


def test_runs_are_numbered_and_a_repeated_request_gets_the_first(runs: RunService) -> None:
    first = runs.start("digits", Trigger.MANUAL, "why", request_id="a")
    assert runs.start("digits", Trigger.MANUAL, "why", request_id="a").name == first.name == "projects/digits/runs/1"
    assert runs.start("digits", Trigger.MANUAL, "why").number == 2
    assert runs.start("other", Trigger.MANUAL, "why", request_id="a").name == "projects/other/runs/1"
    assert [run.number for run in runs.list("digits")[0]] == [2, 1]


def test_runs_are_paged_newest_first(runs: RunService) -> None:
    for _ in range(5):
        runs.start("digits", Trigger.MANUAL, "")
    seen, token = [], ""
    while True:
        page, token = runs.list("digits", page_size=2, page_token=token)
        seen += [run.number for run in page]
        if not token:
            break
    assert seen == [5, 4, 3, 2, 1]
    with pytest.raises(InvalidInput, match="page_token"):
        runs.list("digits", page_token="Zm9v")


def test_a_missing_run_or_project_says_what_to_do(runs: RunService) -> None:
    with pytest.raises(NotFound, match="milonga runs list"):
        runs.get("projects/digits/runs/9")
    with pytest.raises(NotFound, match="milonga apply"):
        runs.start("cats", Trigger.MANUAL, "")


def _execute(runs: RunService, work: object, until: int) -> None:
    """Run an executor until this many runs have ended."""

    async def go() -> None:
        executor = Executor(runs, work)  # type: ignore[arg-type]
        task = asyncio.create_task(executor.run())
        async with asyncio.timeout(20):
            while sum(run.ended_at is not None for run in runs.list()[0]) < until:
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())


def test_one_run_at_a_time_for_each_project(runs: RunService) -> None:
    busy: list[str] = []
    seen: list[tuple[str, ...]] = []

    async def work(run: Run) -> str:
        busy.append(run.project)
        seen.append(tuple(sorted(busy)))
        await asyncio.sleep(0.02)
        busy.remove(run.project)
        return "done"

    for project in ("digits", "digits", "other"):
        runs.start(project, Trigger.MANUAL, "")
    _execute(runs, work, until=3)
    assert ("digits", "other") in seen and ("digits", "digits") not in seen
    assert all(run.state is RunState.SUCCEEDED and run.outcome == "done" for run in runs.list()[0])


def test_a_job_that_crashes_is_tried_again_and_then_given_up(runs: RunService) -> None:
    tries = 0

    async def work(run: Run) -> str:
        nonlocal tries
        tries += 1
        raise JobCrashed("out of memory")

    runs.start("digits", Trigger.MANUAL, "")
    _execute(runs, work, until=1)
    run = runs.get("projects/digits/runs/1")
    assert tries == MAX_CRASHES
    assert (run.state, run.error) == (RunState.FAILED, "out of memory")


def test_a_stage_that_succeeded_is_passed_over_silently_after_a_restart(runs: RunService) -> None:
    run = runs.start("digits", Trigger.MANUAL, "")
    told: list[bool] = []

    async def train(report: Report) -> str:
        report(0.5, "half", loss=1.0)
        told.append(True)
        return "trained"

    async def twice() -> None:
        assert await stage(runs, run.name, "train", train) == "trained"
        before = runs.get(run.name).stages
        assert await stage(runs, run.name, "train", train) == "trained"
        assert runs.get(run.name).stages == before

    asyncio.run(twice())
    done = next(one for one in runs.get(run.name).stages if one.name == "train")
    assert (done.state, done.attempts, done.metrics, len(told)) == (StageState.SUCCEEDED, 1, {"loss": 1.0}, 2)


def test_a_failed_run_goes_on_from_the_stage_where_it_ended(runs: RunService) -> None:
    run = runs.start("digits", Trigger.MANUAL, "")
    for name, state in (("prepare", StageState.SUCCEEDED), ("train", StageState.RUNNING)):
        runs.change_stage(run.name, name, state=state)
    failed = runs.end(run.name, RunState.FAILED, error="no disk")
    assert next(one for one in failed.stages if one.name == "train").message == "no disk"
    again = runs.resume(run.name)
    states = {one.name: one.state for one in again.stages}
    assert again.state is RunState.QUEUED and again.error == ""
    assert (states["prepare"], states["train"]) == (StageState.SUCCEEDED, StageState.PENDING)
    with pytest.raises(FailedPrecondition, match="queued"):
        runs.resume(run.name)


def test_the_stage_at_which_a_run_was_cancelled_did_not_fail(runs: RunService) -> None:
    run = runs.start("digits", Trigger.MANUAL, "")
    runs.change_stage(run.name, "train", state=StageState.RUNNING)
    cancelled = {one.name: one for one in runs.cancel(run.name).stages}
    assert (cancelled["train"].state, cancelled["train"].message) == (StageState.CANCELLED, "cancelled")
    assert cancelled["train"].ended_at is not None and cancelled["profile"].state is StageState.PENDING
    # It goes on from there.
    assert {one.name: one.state for one in runs.resume(run.name).stages}["train"] is StageState.PENDING


def test_a_cancelled_run_stays_cancelled(runs: RunService) -> None:
    run = runs.start("digits", Trigger.MANUAL, "")
    assert runs.cancel(run.name).state is RunState.CANCELLED
    assert runs.end(run.name, RunState.SUCCEEDED).state is RunState.CANCELLED
    with pytest.raises(FailedPrecondition, match="ended already"):
        runs.cancel(run.name)


def test_an_epoch_that_is_told_twice_stands_once_in_the_curve(runs: RunService) -> None:
    run = runs.start("digits", Trigger.MANUAL, "")
    for epochs in ([2.0], [2.0, 1.0]):
        runs.add_training_points(run.name, [{"epoch": epoch, "loss": 1 / epoch} for epoch in epochs])
    assert [point["epoch"] for point in runs.history(run.name)] == [1.0, 2.0]


def test_a_run_that_no_person_started_waits_for_approval_where_the_project_demands_it(runs: RunService) -> None:
    waiting = runs.start("careful", Trigger.DRIFT, "drift in brightness")
    assert waiting.state is RunState.AWAITING_APPROVAL and runs.unfinished() == []
    mine = runs.start("careful", Trigger.MANUAL, "")
    began: list[str] = []

    async def work(run: Run) -> str:
        began.append(run.name)
        if run.name == mine.name:
            assert runs.approve(waiting.name).state is RunState.QUEUED
        return "done"

    _execute(runs, work, until=2)
    assert began == [mine.name, waiting.name]
    with pytest.raises(FailedPrecondition, match="succeeded"):
        runs.approve(waiting.name)


def test_a_refused_run_ends_without_having_begun(runs: RunService) -> None:
    run = runs.start("careful", Trigger.SCHEDULE, "")
    refused = runs.refuse(run.name)
    assert (refused.state, refused.error) == (RunState.CANCELLED, "refused") and refused.ended_at is not None
    with pytest.raises(FailedPrecondition, match="does not wait for approval: it is cancelled \\(refused"):
        runs.refuse(run.name)
