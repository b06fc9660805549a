"""kill -9, anywhere: the run goes on, nothing is done twice visibly, no acknowledged telemetry is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from milonga.v1 import devices_pb2, models_pb2, projects_pb2

from tests.e2e.loop import PROJECT, Loop, Scale, classify
from tests.e2e.processes import QUICKLY, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TINY = Scale(
    known=500,
    later=10,
    live=100,
    spec={
        "training": {"resolution_px": 16, "epochs": 6, "batch_size": 16},
        "search": {
            "measured_subnets": 5,
            "further_measurements": 2,
            "evaluated_subnets": 8,
            "population": 16,
            "generations": 6,
            "verified_candidates": 2,
        },
        "rollout": {"soak_seconds": 0.5},
        "retraining": {"drift": {"enabled": False}},
    },
)
KILLED_STAGES = ("prepare", "train", "profile", "search", "build", "rollout")


def _quiet(fraction: float, message: str) -> None:
    """The test shows nothing."""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Return a loop whose first run ended although everything was killed once in every stage."""
    options = ("--heartbeat-seconds", "0.5", "--telemetry-seconds", "0.5", *QUICKLY)
    with System(tmp_path_factory.mktemp("kill"), options) as system:
        loop = Loop(system, TINY)
        for step in (loop.start_hub, loop.enrol, loop.import_known, loop.apply):
            step(_quiet)
        _run_and_kill(loop)
        loop.start_traffic()
        yield loop
        loop.stop_traffic()


def _run_and_kill(loop: Loop) -> None:
    system = loop.system
    actions: dict[str, Callable[[], None]] = {stage: lambda: _kill_hub(system) for stage in KILLED_STAGES}
    killed: set[str] = set()
    job_killed = agent_killed = False

    def ended() -> projects_pb2.Run | None:
        nonlocal job_killed, agent_killed
        run = loop.run(loop.first_run)
        for stage in run.stages:
            if stage.state != projects_pb2.STAGE_STATE_RUNNING:
                continue
            if stage.name in killed:
                if stage.name == "train" and not job_killed:
                    job_killed = _kill_job(system)
                if stage.name == "profile" and not agent_killed:
                    agent_killed = True
                    _kill_agent(system, "pi5")
            else:
                killed.add(stage.name)
                actions.get(stage.name, lambda: None)()
        return run if run.state not in (projects_pb2.RUN_STATE_RUNNING, projects_pb2.RUN_STATE_QUEUED) else None

    run = system.wait("the run to end", ended, 1200)
    assert run.state == projects_pb2.RUN_STATE_SUCCEEDED, run.error
    assert job_killed and agent_killed
    assert {"train", "search"} <= killed, "the test came too late to kill anything"


def _kill_hub(system: System) -> None:
    system.hub.kill()
    system.start_hub()


def _kill_job(system: System) -> bool:
    for child in psutil.Process(system.hub.pid).children():
        if "milonga_hub.jobs" in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)
            return True
    return False


def _kill_agent(system: System, name: str) -> None:
    system.agents[name].kill()
    system.start_agent(name)


def test_a_run_goes_on_through_the_death_of_everything(loop: Loop) -> None:
    run = loop.run(loop.first_run)
    assert all(
        stage.state in (projects_pb2.STAGE_STATE_SUCCEEDED, projects_pb2.STAGE_STATE_SKIPPED) for stage in run.stages
    )
    train = next(stage for stage in run.stages if stage.name == "train")
    assert train.attempts > 1


def test_nothing_was_made_twice(loop: Loop) -> None:
    api = loop.system.api
    assert [run.name for run in api.runs.ListRuns(projects_pb2.ListRunsRequest(project=PROJECT)).runs] == [
        loop.first_run
    ]
    versions = api.models.ListModelVersions(models_pb2.ListModelVersionsRequest(model=PROJECT)).model_versions
    assert len(versions) == 1
    assert len(loop.rollouts()) == 1
    measurements = api.devices.ListMeasurements(
        devices_pb2.ListMeasurementsRequest(run=loop.first_run, page_size=1000)
    ).measurements
    asked = [(one.purpose, one.device_type, one.subnet, one.engine, one.precision) for one in measurements]
    assert len(asked) == len(set(asked))


def test_telemetry_that_was_acknowledged_survives_the_hub(loop: Loop) -> None:
    system = loop.system
    loop.await_telemetry(_quiet, requests=20)
    before = {(window.device, window.boot_id, window.sequence) for window in loop.windows()}
    _kill_hub(system)
    loop.await_telemetry(_quiet, requests=60)
    after = {(window.device, window.boot_id, window.sequence) for window in loop.windows()}
    assert before <= after
    boots: dict[tuple[str, str], list[int]] = defaultdict(list)
    for device, boot, sequence in after:
        boots[device, boot].append(sequence)
    for sequences in boots.values():
        assert sorted(sequences) == list(range(min(sequences), max(sequences) + 1)), "a window is missing"


def test_an_agent_that_was_killed_serves_again_without_the_hub(loop: Loop) -> None:
    system = loop.system
    loop.stop_traffic()
    system.hub.kill()
    _kill_agent(system, "zero2")
    url = _serving_url(system.folder / "zero2")
    picture = loop.digits.live[0]

    def answers() -> str | None:
        try:
            return classify(url, picture.png)
        except OSError:
            return None

    # The hub is down on purpose, so only the agent is looked at.
    hub, system.hub.process = system.hub.process, None
    try:
        assert system.wait("the agent to serve", answers, 90)
    finally:
        system.hub.process = hub
        system.start_hub()
    system.wait("the agent to come back", lambda: _is_online(loop, "zero2"), 90)


def _is_online(loop: Loop, name: str) -> bool:
    try:
        device = loop.system.api.devices.GetDevice(devices_pb2.GetDeviceRequest(name=name)).device
    except grpc.RpcError:
        return False
    return device.state == devices_pb2.DEVICE_STATE_ONLINE


def _serving_url(folder: Path) -> str:
    command = [sys.executable, "-m", "milonga_agent", "status", "--data-dir", str(folder), "--json"]
    return str(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["serving_url"])
