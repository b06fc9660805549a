"""A run whose jobs are done by a Ray cluster gets what it gets on the hub's machine, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from milonga_hub.cluster.rules import resources
from milonga_hub.cluster.workers import RayWorkers
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.jobs import LOCAL, Claim, JobCrashed, JobError, Progress, Workers, run_job
from milonga_hub.learning.checkpoint import Checkpoint
from milonga_hub.projects.models import BuildSpec, Limits, ProjectSpec, SearchSpec, TrainingSpec
from milonga_hub.runs.building import build
from milonga_hub.runs.profile import profile
from milonga_hub.runs.specialise import search
from milonga_hub.runs.train import train

from tests.learning.data import write_arrays
from tests.ray.small_cluster import SmallCluster, small_cluster
from tests.runs.boards import Board, Hub, weights

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

PROJECT = ProjectSpec(
    dataset="digits",
    training=TrainingSpec(space="resnet", resolution_px=16, epochs=2, batch_size=16, learning_rate=0.2, threads=1),
    search=SearchSpec(
        measured_subnets=6,
        further_measurements=2,
        evaluated_subnets=8,
        population=8,
        generations=3,
        verified_candidates=2,
    ),
    build=BuildSpec(targets=["onnxruntime/fp32", "onnxruntime/int8"], max_accuracy_loss_points=50.0),
)
TRAIN = {
    "space": "resnet", "resolution_px": 16, "epochs": 5, "batch_size": 16, "learning_rate": 0.2, "seed": 0, "threads": 1,
    "base_checkpoint": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("data") / "data.npz")


@pytest.fixture(scope="module")
def trained(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training on this machine."""
    folder = tmp_path_factory.mktemp("here") / "train"
    asyncio.run(run_job("train", {**TRAIN, "data": str(arrays)}, folder, lambda progress: None))
    return folder


def _workers(cluster: SmallCluster, *takes: str, member: bool = False) -> RayWorkers:
    return RayWorkers(cluster.members if member else cluster.address, resources(takes), at_once=2)


def _same_weights(folder: Path, other: Path) -> bool:
    """Whether both trainings ended alike. Files of one that went on may name equal things twice."""
    one, two = (Checkpoint.read(each / "checkpoint.pt") for each in (folder, other))
    return one.history == two.history and all(torch.equal(one.model[name], two.model[name]) for name in one.model)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Watched:
    """A job on the cluster, and what it said. `act` hears each line, and may do something to the cluster."""

    workers: RayWorkers
    folder: Path
    act: Callable[[Progress], None] = lambda progress: None
    said: list[Progress] = field(default_factory=list)

    def run(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        return asyncio.run(run_job(kind, spec, self.folder, self._hear, self.workers))

    def _hear(self, progress: Progress) -> None:
        self.said.append(progress)
        self.act(progress)


def _at_epoch(number: int, act: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return a listener that acts once, when this epoch is over."""
    done: list[bool] = []

    def hear(progress: Progress) -> None:
        if progress.metrics.get("epoch", 0) >= number and not done:
            done.append(True)
            act(progress)

    return hear


def _jobs_under(folder: Path) -> list[psutil.Process]:
    """Return the processes of jobs that a node with this folder runs."""
    return [one for one in psutil.process_iter(["cmdline"]) if f"{folder}/" in " ".join(one.info["cmdline"] or ())]


# The whole run


@dataclass(frozen=True)
class Outcome:
    checkpoint: str
    subnets: dict[str, str]
    accuracies: dict[str, float]
    bundles: dict[str, str]


class _Run(Hub):
    """A run of two device types that answer from a formula."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        folder.mkdir()
        super().__init__(folder, PROJECT, workers)
        self.boards = {name: Board(name, self._speed(factor)) for name, factor in (("quick", 1e-5), ("slow", 4e-5))}

    def _speed(self, factor: float) -> Callable[[MeasurementItem, int], float]:
        return lambda item, asked: 0.05 + factor * weights(self.services.blobs, item)

    def outcome(self) -> Outcome:
        work, plan = self.work, self.plan({"slow": Limits(latency_ms=5.0)})
        write_arrays(Path(work.data(plan)))

        async def stages() -> Outcome:
            trained = await self.stage("train", lambda report: train(work, plan, report))
            profiled = await self.stage("profile", lambda report: profile(work, plan, trained, report))
            found = await self.stage("search", lambda report: search(work, plan, trained, profiled, report))
            version, _ = await self.stage("build", lambda report: build(work, plan, trained, found, report))
            builds = [one for name in self.boards for one in self.services.builds.of_type(version.name, name)]
            return Outcome(
                _digest(Path(trained["checkpoint"])),
                {name: choice.candidate["subnet"] for name, choice in found.choices.items()},
                {name: choice.candidate["accuracy"] for name, choice in found.choices.items()},
                {one.name: one.bundle for one in builds},
            )

        return self.run(stages, seconds=900)


def test_a_run_on_a_cluster_gets_what_it_gets_on_the_hubs_machine(cluster: SmallCluster, tmp_path: Path) -> None:
    here = _Run(tmp_path / "here", LOCAL)
    there = _Run(tmp_path / "there", _workers(cluster))
    expected, found = here.outcome(), there.outcome()
    assert found == expected
    assert len(found.bundles) == 4 and all(found.bundles.values())
    for name in ("train", "profile", "search", "build"):
        assert "node " in there.told(name).where and not here.told(name).where
    # What jobs leave names the hub's folders alone, and the nodes keep no folder of a job that has ended.
    for result in there.work.folder.rglob("result.json"):
        assert not any(str(folder) in result.read_text() for folder in cluster.folders)
    assert not any(list(folder.glob("milonga-ray-*/jobs/*")) for folder in cluster.folders)


def test_a_driver_on_a_machine_of_the_cluster_needs_no_client_server(
    cluster: SmallCluster, arrays: Path, trained: Path, tmp_path: Path
) -> None:
    Watched(_workers(cluster, member=True), tmp_path / "job").run("train", {**TRAIN, "data": str(arrays)})
    assert _digest(tmp_path / "job" / "checkpoint.pt") == _digest(trained / "checkpoint.pt")


def test_a_job_goes_to_the_node_that_has_its_data(cluster: SmallCluster, arrays: Path, tmp_path: Path) -> None:
    with np.load(arrays) as known:
        padding = np.random.default_rng(0).bytes(6 << 20)
        np.savez(tmp_path / "large.npz", padding=np.frombuffer(padding, np.uint8), **known)
    spec = {**TRAIN, "epochs": 1, "data": str(tmp_path / "large.npz")}
    first = Watched(_workers(cluster), tmp_path / "first")
    first.run("train", spec)
    digest = _digest(tmp_path / "large.npz")
    (here,) = [store for store in _stores(cluster) if (store / digest).exists()]
    (other,) = [store for store in _stores(cluster) if store != here]
    other.mkdir(parents=True, exist_ok=True)
    shutil.move(here / digest, other / digest)
    second = Watched(first.workers, tmp_path / "second")
    second.run("train", spec)
    assert second.said[-1].where != first.said[-1].where
    assert any("has what it reads" in one.message for one in second.said)


def _stores(cluster: SmallCluster) -> list[Path]:
    """Return where the nodes keep files."""
    return [folder / f"milonga-ray-{os.getuid()}" / "files" for folder in cluster.folders]


# What goes wrong


def test_a_training_whose_worker_dies_goes_on_from_its_last_epoch(
    cluster: SmallCluster, arrays: Path, trained: Path, tmp_path: Path
) -> None:
    came = tmp_path / "job" / "checkpoint.pt"
    lost: list[psutil.Process] = []

    def lose(progress: Progress) -> None:
        """Kill what watches over the job, Ray's worker, once what two epochs left has come back."""
        if not lost and came.exists() and len(Checkpoint.read(came).history) >= 2:
            (job,) = [one for folder in cluster.folders for one in _jobs_under(folder)]
            lost.append(psutil.Process(job.ppid()))
            lost[0].kill()

    job = Watched(_workers(cluster), tmp_path / "job", lose)
    result = job.run("train", {**TRAIN, "data": str(arrays)})
    assert [point["epoch"] for point in result["history"]] == [1, 2, 3, 4, 5]
    again = next(index for index, one in enumerate(job.said) if "goes on elsewhere" in one.message)
    assert min(one.metrics["epoch"] for one in job.said[again:] if "epoch" in one.metrics) >= 2
    assert _same_weights(tmp_path / "job", trained)


def test_a_job_whose_process_dies_is_a_crash_as_on_the_hubs_machine(
    cluster: SmallCluster, arrays: Path, tmp_path: Path
) -> None:
    def kill(progress: Progress) -> None:
        for job in [one for folder in cluster.folders for one in _jobs_under(folder)]:
            job.kill()

    with pytest.raises(JobCrashed):
        Watched(_workers(cluster), tmp_path / "job", _at_epoch(1, kill)).run("train", {**TRAIN, "data": str(arrays)})
    assert (tmp_path / "job" / "checkpoint.pt").exists()


def _cancelled(workers: RayWorkers, spec: dict[str, Any], folder: Path) -> None:
    """Cancel a training after its first epoch."""

    async def cancel() -> None:
        began = asyncio.Event()
        hear = _at_epoch(1, lambda progress: began.set())
        job = asyncio.create_task(run_job("train", spec, folder / "job", hear, workers))
        await asyncio.wait([job, asyncio.create_task(began.wait())], return_when=asyncio.FIRST_COMPLETED)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)

    asyncio.run(cancel())


def test_a_cancelled_job_ends_on_its_node(cluster: SmallCluster, arrays: Path, tmp_path: Path) -> None:
    _cancelled(_workers(cluster), {**TRAIN, "epochs": 500, "data": str(arrays)}, tmp_path)
    assert not [one for folder in cluster.folders for one in _jobs_under(folder)]
    assert not any(list(folder.glob("milonga-ray-*/jobs/*")) for folder in cluster.folders)


def test_a_job_that_another_hub_has_begun_anew_ends_on_its_node_and_writes_nothing_more(
    cluster: SmallCluster, arrays: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    job = Watched(_workers(cluster), folder, _at_epoch(1, lambda progress: Claim(folder).demand()))
    with pytest.raises(JobCrashed):
        job.run("train", {**TRAIN, "epochs": 500, "data": str(arrays)})
    assert "another process has begun this job anew" in (folder / "log.txt").read_text()
    assert not (folder / "result.json").exists()
    assert not [one for folder in cluster.folders for one in _jobs_under(folder)]
    assert not any(list(folder.glob("milonga-ray-*/jobs/*")) for folder in cluster.folders)


def test_what_no_node_has_is_said_before_anything_is_sent(cluster: SmallCluster, arrays: Path, tmp_path: Path) -> None:
    job = Watched(_workers(cluster, "train=cpu:1,gpu:1"), tmp_path / "job")
    with pytest.raises(
        JobError, match=r"to take 1 CPU, 1 GPU, and the nodes of the Ray cluster have .*--ray-resources"
    ):
        job.run("train", {**TRAIN, "data": str(arrays)})
    assert not job.said


def test_what_a_job_says_of_its_failure_comes_back(cluster: SmallCluster, arrays: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no optimiser 'lion'"):
        Watched(_workers(cluster), tmp_path / "job").run("train", {**TRAIN, "optimiser": "lion", "data": str(arrays)})


# Teams: workers of Ray Train

TEAM = {**TRAIN, "epochs": 3, "precision": "fp32"}


@pytest.fixture(scope="module")
def trained_by_two(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training by two processes of this machine, told of each other as torchrun tells them."""
    folder = tmp_path_factory.mktemp("here") / "team"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({**TEAM, "data": str(arrays)}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    team = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = LOCAL.command("train", folder)
    both = [
        subprocess.Popen(command, env={**team, "RANK": rank}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for rank in ("0", "1")
    ]
    assert [one.wait() for one in both] == [0, 0]
    return folder


def _team_workers(cluster: SmallCluster) -> list[psutil.Process]:
    """Return the processes of Ray Train's workers, by their folder for temporary files."""
    folders = {str(folder) for folder in cluster.folders}
    found = []
    for one in psutil.process_iter(["name", "cmdline"]):
        with contextlib.suppress(psutil.Error):
            if "TrainWorker" in " ".join(one.info["cmdline"] or ()) and one.environ().get("TMPDIR") in folders:
                found.append(one)
    return found


def test_two_workers_of_ray_train_get_what_two_processes_of_one_machine_get(
    cluster: SmallCluster, arrays: Path, trained_by_two: Path, tmp_path: Path
) -> None:
    job = Watched(_workers(cluster, "train=cpu:1,workers:2"), tmp_path / "job")
    result = job.run("train", {**TEAM, "data": str(arrays)})
    assert [point["epoch"] for point in result["history"]] == [1, 2, 3]
    assert "and 1 more" in job.said[-1].where
    assert _same_weights(tmp_path / "job", trained_by_two)


def test_a_team_that_loses_a_worker_goes_on_from_its_last_epoch(
    cluster: SmallCluster, arrays: Path, trained_by_two: Path, tmp_path: Path
) -> None:
    came = tmp_path / "job" / "checkpoint.pt"
    lost: list[psutil.Process] = []

    def lose(progress: Progress) -> None:
        """Kill a worker in the third epoch, once what the second left has come back."""
        if not lost and progress.message == "epoch 3 of 3" and len(Checkpoint.read(came).history) == 2:
            lost.append(_team_workers(cluster)[-1])
            lost[0].kill()

    job = Watched(_workers(cluster, "train=cpu:1,workers:2"), tmp_path / "job", lose)
    job.run("train", {**TEAM, "data": str(arrays)})
    again = next(index for index, one in enumerate(job.said) if "goes on elsewhere" in one.message)
    assert lost and min(one.metrics["epoch"] for one in job.said[again:] if "epoch" in one.metrics) >= 2
    assert _same_weights(tmp_path / "job", trained_by_two)


def test_a_team_whose_job_is_cancelled_leaves_its_nodes(cluster: SmallCluster, arrays: Path, tmp_path: Path) -> None:
    _cancelled(_workers(cluster, "train=cpu:1,workers:2"), {**TEAM, "epochs": 500, "data": str(arrays)}, tmp_path)
    psutil.wait_procs(_team_workers(cluster), timeout=60)
    assert not _team_workers(cluster)
    assert not any(list(folder.glob("milonga-ray-*/jobs/*")) for folder in cluster.folders)


def test_what_a_team_says_of_its_failure_comes_back(cluster: SmallCluster, arrays: Path, tmp_path: Path) -> None:
    job = Watched(_workers(cluster, "train=cpu:1,workers:2"), tmp_path / "job")
    with pytest.raises(JobError, match="no optimiser 'lion'"):
        job.run("train", {**TEAM, "optimiser": "lion", "data": str(arrays)})


# The last: it costs the cluster a node


def test_a_job_whose_node_is_lost_goes_on_on_another(
    cluster: SmallCluster, arrays: Path, trained: Path, tmp_path: Path
) -> None:
    def lose(progress: Progress) -> None:
        (folder,) = [folder for folder in cluster.folders if _jobs_under(folder)]
        cluster.lose(folder)

    job = Watched(_workers(cluster), tmp_path / "job", _at_epoch(2, lose))
    job.run("train", {**TRAIN, "data": str(arrays)})
    assert len({one.where for one in job.said if one.metrics}) == 2
    assert _same_weights(tmp_path / "job", trained)
