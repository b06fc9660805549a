"""A busy hub's runs, told to a real MLflow store: a database in a folder, which the client of servers opens as well."""

from __future__ import annotations

import asyncio
import csv
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.runs.models import RunState, Trigger
from milonga_hub.tracking import mlflow
from milonga_hub.tracking.errors import Away, Refused
from milonga_hub.tracking.rules import Record
from milonga_hub.tracking.service import Store, Tracking

from tests.simulation.hubs import give_project, running
from tests.web.filled import PROJECT, Services, filled

pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
pytest.importorskip("alembic", reason="MLflow needs it for a store without a server")

FIRST = f"projects/{PROJECT}/runs/1"
RUNNING = f"projects/{PROJECT}/runs/3"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Services:
    hub = filled(tmp_path_factory.mktemp("hub"))
    plan = hub.folder / "runs" / PROJECT / "1" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text('{"classes": ["0", "1"]}', encoding="utf-8")
    return hub


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables take MLflow seconds to make: once for all tests."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    _client(path).search_experiments()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """A store without runs."""
    return _store(empty_database, tmp_path)


@pytest.fixture(scope="module")
def told(busy: Services, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was told of the first run; tests only read it."""
    database = _store(empty_database, tmp_path_factory.mktemp("told"))
    _told(busy, database, FIRST)
    return database


def _store(empty_database: Path, folder: Path) -> Path:
    """Return a store in the folder, with what it keeps as files next to it."""
    path = folder / "mlflow.db"
    shutil.copy(empty_database, path)
    _client(path).create_experiment(PROJECT, artifact_location=(folder / "artifacts").as_uri())
    return path


def _client(database: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")


def _tracking(hub: Services, store: Store, name: str = "sha256:hub") -> Tracking:
    return Tracking(
        hub.events,
        hub.runs,
        hub.models,
        hub.builds,
        hub.folder / "runs",
        name,
        lambda: "http://hub:8080",
        store,
        seconds_between=0.0,
    )


def _told(hub: Services, database: Path, run: str, **changes: Any) -> Any:
    """Tell a store that knows nothing yet of the run; return the run of MLflow."""
    _tracking(hub, mlflow.store(f"sqlite:///{database}"), **changes).tell(run)
    return _runs(database)[0]


def _runs(database: Path) -> list[Any]:
    client = _client(database)
    return list(client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id]))


def test_a_run_of_the_hub_is_a_run_of_mlflow(busy: Services, told: Path) -> None:
    (run,) = _runs(told)
    assert (run.info.run_name, run.info.status) == (f"{PROJECT} 1", "FINISHED")
    assert run.info.start_time == int(busy.runs.get(FIRST).created_at.timestamp() * 1000)
    assert run.data.params["training.epochs"] == "30"
    assert run.data.params["limits.0.latency_ms"]
    tags = run.data.tags
    assert (tags["milonga.trigger"], tags["milonga.dataset_version"]) == ("APPLY", f"datasets/{PROJECT}/versions/1")
    assert tags["milonga.url"] == f"http://hub:8080/runs/{PROJECT}/1"
    assert run.data.metrics["train/seconds"] > 0
    loss = _client(told).get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in loss] == [*range(1, 21)]
    assert [point.value for point in loss] == [point["loss"] for point in busy.runs.history(FIRST)]


def test_only_small_artifacts_are_kept_and_candidates_are_lines(busy: Services, told: Path) -> None:
    (run,) = _runs(told)
    client = _client(told)
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["candidates.csv", "plan.json"]
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    rows = list(csv.DictReader((folder / "candidates.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(busy.runs.candidates(FIRST, page_size=1000)[0])
    assert "drawing" not in rows[0]


def test_a_model_version_is_registered_with_its_lineage(busy: Services, told: Path) -> None:
    (run,) = _runs(told)
    (version,) = _client(told).search_model_versions(f"name = '{PROJECT}'")
    assert version.run_id == run.info.run_id
    own = busy.models.get_version(f"models/{PROJECT}/versions/1")
    assert (version.tags["milonga.run"], version.tags["milonga.dataset_version"]) == (FIRST, own.dataset_version)
    for kind, build in busy.builds.chosen(own.name).items():
        assert version.tags[f"milonga.subnet.{kind}"] == own.subnets[kind]
        assert version.tags[f"milonga.bundle.{kind}"] == build.bundle
        assert float(version.tags[f"milonga.accuracy.{kind}"]) == pytest.approx(build.accuracy)


def test_a_build_that_is_chosen_later_changes_what_its_version_says(busy: Services, database: Path) -> None:
    version = f"models/{PROJECT}/versions/2"
    tracking = _tracking(busy, mlflow.store(f"sqlite:///{database}"))
    tracking.tell(version)
    kind, before = next(iter(busy.builds.chosen(version).items()))
    other = next(build for build in busy.builds.of_type(version, kind) if build.name != before.name)
    busy.builds.choose(other.name)
    try:
        tracking.tell(version)
    finally:
        busy.builds.choose(before.name)
    (told,) = _client(database).search_model_versions(f"name = '{PROJECT}'")
    assert told.tags[f"milonga.target.{kind}"] == other.target != before.target


def test_a_hub_that_starts_again_goes_on_with_the_same_runs(busy: Services, database: Path) -> None:
    before = _told(busy, database, RUNNING)
    assert before.info.status == "RUNNING"
    busy.runs.add_training_points(RUNNING, [{"epoch": 99.0, "loss": 0.5}])
    after = _told(busy, database, RUNNING)
    assert [run.info.run_id for run in _runs(database)] == [before.info.run_id]
    history = _client(database).get_metric_history(after.info.run_id, "loss")
    curve = [(int(point["epoch"]), point["loss"]) for point in busy.runs.history(RUNNING)]
    assert sorted((point.step, point.value) for point in history) == curve
    assert (99, 0.5) in curve


def test_a_run_that_goes_on_after_it_failed_is_open_again(busy: Services, database: Path) -> None:
    run = busy.runs.start(PROJECT, Trigger.MANUAL, "again")
    busy.runs.end(run.name, RunState.FAILED, error="no devices")
    failed = _told(busy, database, run.name)
    assert (failed.info.status, failed.data.tags["milonga.error"]) == ("FAILED", "no devices")
    busy.runs.resume(run.name)
    resumed = _told(busy, database, run.name)
    assert resumed.info.status == "SCHEDULED"
    assert "milonga.error" not in resumed.data.tags
    busy.runs.cancel(run.name)
    assert _told(busy, database, run.name).info.status == "KILLED"


def test_what_mlflow_knows_is_not_told_again(busy: Services, told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow.MlflowStore, "_tell", lambda *_: pytest.fail("told again"))
    _told(busy, told, FIRST)


def test_a_run_that_was_deleted_in_mlflow_stays_so(busy: Services, database: Path) -> None:
    run = _told(busy, database, RUNNING)
    _client(database).delete_run(run.info.run_id)
    busy.runs.add_training_points(RUNNING, [{"epoch": 100.0, "loss": 0.4}])
    _tracking(busy, mlflow.store(f"sqlite:///{database}")).tell(RUNNING)
    assert not _runs(database)


def test_two_hubs_do_not_mix_up_their_runs_on_one_server(busy: Services, database: Path) -> None:
    _told(busy, database, FIRST)
    _told(busy, database, FIRST, name="sha256:another")
    assert len(_runs(database)) == 2


def test_an_artifact_that_cannot_be_kept_holds_up_nothing_else(
    busy: Services, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Where the folder should be there is a file.
    (database.parent / "artifacts").touch()
    run = _told(busy, database, FIRST)
    assert run.info.status == "FINISHED"
    assert f"{FIRST}: its artifact plan.json is left out" in caplog.text


def test_a_server_that_is_not_there_is_away_and_an_experiment_that_was_deleted_is_refused(
    busy: Services, database: Path
) -> None:
    with socket.socket() as silent, pytest.raises(Away, match=r"MLflow at 127\.0\.0\.1"):
        # Taken, so that nobody listens there.
        silent.bind(("127.0.0.1", 0))
        _tracking(busy, mlflow.store(f"http://127.0.0.1:{silent.getsockname()[1]}")).tell(FIRST)
    client = _client(database)
    client.delete_experiment(client.get_experiment_by_name(PROJECT).experiment_id)
    with pytest.raises(Refused, match="mlflow experiments restore"):
        _told(busy, database, FIRST)


def test_what_is_no_uri_of_a_server_is_refused_before_the_hub_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("mlflow", "mlflow:5000", "file:///tmp/mlruns"):
        with pytest.raises(InvalidInput, match="http://mlflow:5000"):
            mlflow.store(wrong)
    with pytest.raises(InvalidInput, match="MLFLOW_TRACKING_PASSWORD"):
        mlflow.store("http://me:secret@mlflow:5000")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(mlflow, "find_spec", lambda _: None)
    with pytest.raises(FailedPrecondition, match=r"pip install 'milonga-hub\[mlflow\]'"):
        mlflow.store("http://mlflow:5000")


class _Heard:
    """Keeps what it is told, and says when a run has come to a state."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.told: asyncio.Queue[Record] = asyncio.Queue()

    def write(self, record: Record) -> None:
        self.loop.call_soon_threadsafe(self.told.put_nowait, record)

    async def until(self, run: str, status: str) -> Record:
        while (record := await self.told.get()).run != run or record.status != status:
            pass
        return record


def test_runs_from_before_the_start_are_told_and_so_is_each_change(busy: Services) -> None:
    async def story() -> None:
        heard = _Heard(asyncio.get_running_loop())
        task = asyncio.create_task(_tracking(busy, heard).run())
        try:
            await heard.until(FIRST, "FINISHED")
            run = busy.runs.start(PROJECT, Trigger.MANUAL, "why")
            assert (await heard.until(run.name, "SCHEDULED")).tags["milonga.reason"] == "why"
            busy.runs.end(run.name, RunState.FAILED, error="no devices")
            assert (await heard.until(run.name, "FAILED")).tags["milonga.error"] == "no devices"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_hub_that_is_given_a_server_tells_it_where_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        heard = _Heard(asyncio.get_running_loop())
        monkeypatch.setattr(mlflow, "store", {"http://mlflow:5000": heard}.__getitem__)
        async with running(tmp_path / "hub", mlflow="http://mlflow:5000") as hub:
            give_project(hub, tmp_path / "given")
            run = hub.runs.start(PROJECT, Trigger.MANUAL, "why")
            # There are no devices.
            told = await heard.until(run.name, "FAILED")
            assert told.url == f"http://{hub.addresses.http}/runs/{PROJECT}/1"
            assert told.hub == hub.devices.authority.fingerprint

    asyncio.run(asyncio.wait_for(story(), 60))
