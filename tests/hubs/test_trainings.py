"""A run whose hub is stopped, and then killed, in the middle of its training: `make test-hubs`."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from milonga_hub.traces import traces

from tests.hubs.processes import HubProcess, eventually
from tests.hubs.scene import MARKS, Scene, play

pytestmark = MARKS

_RUNS = "/api/v1/projects/digits/runs"
# Enough that the training outlasts the time in which another hub takes the lead, also on a machine with nothing else to do.
_EPOCHS = 80


def test_a_training_goes_on_at_the_other_hub_from_its_last_epoch(tmp_path: Path, own_server: str) -> None:
    async def story(scene: Scene) -> None:
        first, other = await scene.pair()
        async with scene.fleet(2):
            await eventually(lambda: scene.streams().total() == 2, "all devices to be online")
            await asyncio.to_thread(_begin, other)
            epoch = await eventually(lambda: _epochs(other) or None, "an epoch")

            # Stopped, not ended: its job goes on, until it sees that another hub has begun it anew.
            (job,) = _jobs(first)
            first.signal(signal.SIGSTOP)
            at = datetime.now(UTC)
            scene.balancer.take_out(first.host)
            await eventually(lambda: scene.leader() is other, "the other hub to lead")
            await eventually(lambda: job.status() == psutil.STATUS_ZOMBIE, "the first hub's job to end by itself")
            epoch = await eventually(lambda: _epochs(other) > epoch and _epochs(other), "an epoch at the other hub")
            await eventually(lambda: _told(scene, at), "the other hub's job to say something")
            assert min(_told(scene, at)) > 1, "it was begun from the beginning"
            assert len(_jobs(other)) == 1

            other.child.kill()
            at = datetime.now(UTC)
            scene.balancer.take_out(other.host)
            first.signal(signal.SIGCONT)
            scene.balancer.hosts.append(first.host)
            await eventually(lambda: scene.leader() is first, "the first hub to lead again")
            train = await eventually(
                lambda: _stage(first) if _stage(first)["state"] != "RUNNING" else None, "the training", 600
            )
            assert train["state"] == "SUCCEEDED" and train["attempts"] == 3, train
            assert min(_told(scene, at)) >= epoch, "it was begun from before its checkpoint"
            first.child.check()
        (result,) = (scene.cluster.data / "runs").rglob("train/result.json")
        trained = [point["epoch"] for point in json.loads(result.read_text(encoding="utf-8"))["history"]]
        assert trained == [*range(1, _EPOCHS + 1)], "each epoch once"
        # An epoch whose hub was stopped before it heard of it is in the checkpoint, and not in the run's curve.
        told = [point["epoch"] for point in first.ask(f"{_RUNS}/1/history")]
        assert told == sorted(set(told)) and told[-1] == _EPOCHS, "nothing twice"
        assert len(first.ask("/api/v1/runs")["runs"]) == 1

    play(tmp_path, own_server, story)


def _begin(hub: HubProcess) -> None:
    project = hub.ask("/api/v1/projects/digits")["spec"]
    project["training"]["epochs"] = _EPOCHS
    hub.post("/api/v1/projects/digits:apply", {"spec": project})
    hub.post(_RUNS, {"request_id": "once"})


def _epochs(hub: HubProcess) -> int:
    """Return how many epochs have ended."""
    return len(hub.ask(f"{_RUNS}/1/history") or [])


def _stage(hub: HubProcess) -> Any:
    return next(each for each in hub.ask(f"{_RUNS}/1")["stages"] if each["name"] == "train")


def _jobs(hub: HubProcess) -> list[psutil.Process]:
    return [each for each in psutil.Process(hub.child.pid).children() if "milonga_hub.jobs" in " ".join(each.cmdline())]


def _told(scene: Scene, after: datetime) -> list[int]:
    """Return of which epochs jobs of the training told since then."""
    found = [
        re.match(r"epoch (\d+) of", line.message)
        for job in traces(scene.cluster.data / "runs")
        for line in job.lines
        if line.at > after and "train" in job.job
    ]
    return [int(each[1]) for each in found if each]
