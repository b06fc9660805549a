"""A team by Ray Train: its TorchTrainer starts the workers and their process group, and each of them serves a station.

Ray Train keeps no checkpoints here. They come back to the hub as those of any job do, and a team that lost a worker begins
again from them, so that no storage has to be shared between nodes.
"""

from __future__ import annotations

import tempfile
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer

from milonga_hub.cluster import rules
from milonga_hub.cluster.within import StationWithin
from milonga_hub.jobs import environment


class Member(StationWithin):
    """The station of a worker, whose process is the one that Ray Train made a group of."""

    def about(self) -> dict[str, Any]:
        context = ray.get_runtime_context()
        return {**super().about(), "node": context.get_node_id()}


def serve(order: dict[str, Any]) -> None:
    """Do what the desk asks of this worker until it asks to close. Ray Train runs it in each worker."""
    rank, desk = get_context().get_world_rank(), order["desk"]
    station = Member(f"{order['name']}-{rank}")
    name = ""
    while name != "close":
        name, arguments = ray.get(desk.next.remote(rank))
        value, error = None, None
        try:
            value = getattr(station, name)(*arguments)
        except Exception as raised:
            error = raised
        ray.get(desk.answer.remote(rank, value, error))


class Captain:
    """An actor that leads a team. Ray Train's controller belongs to it, and ends with it."""

    def train(self, name: str, kind: str, takes: rules.Resources, desk: Any) -> str:
        """Return once the team has ended: "", or why it did so too early."""
        with tempfile.TemporaryDirectory(prefix="milonga-team-") as folder:
            try:
                _trainer(name, kind, takes, desk, folder).fit()
            except TrainingFailedError as error:
                return _reason(error)
        return ""


def _trainer(name: str, kind: str, takes: rules.Resources, desk: Any, folder: str) -> TorchTrainer:
    each: dict[str, float] = {"CPU": takes.cpus}
    each |= {"GPU": takes.gpus} if takes.gpus else {}
    each |= {"memory": takes.memory_bytes} if takes.memory_bytes else {}
    return TorchTrainer(
        serve,
        train_loop_config={"desk": desk, "name": name},
        # NCCL takes one process a GPU.
        torch_config=TorchConfig(backend="nccl" if takes.gpus >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=takes.workers,
            use_gpu=takes.gpus > 0,
            resources_per_worker=each,
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": environment(kind, {})},
        ),
    )


def _reason(error: Exception) -> str:
    failures = getattr(error, "worker_failures", {})
    said = [f"worker {rank}: {_first_line(one)}" for rank, one in sorted(failures.items())]
    return "; ".join(said) or _first_line(error)


def _first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
