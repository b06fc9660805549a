"""Ctrl-C stops the demo and everything that it started; the hub goes on from the folder that it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from milonga.v1 import projects_pb2

from tests.e2e.loop import PROJECT
from tests.e2e.processes import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def _started_by(folder: Path) -> list[psutil.Process]:
    """Return the processes that name the folder on their command line."""
    processes = psutil.process_iter(["cmdline"])
    return [one for one in processes if any(str(folder) in word for word in one.info["cmdline"] or ())]


def test_ctrl_c_stops_everything_and_the_hub_goes_on_from_there(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    log = (tmp_path / "demo.log").open("wb")
    command = [sys.executable, "-m", "tests.e2e.demo", "--data-dir", str(folder)]
    # Tests that run in the background of a shell ignore Ctrl-C, and what they start inherits it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    demo = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 180
    try:
        # Until the training job is at work, which is after every other kind of process was started.
        while not any(
            "milonga_hub.jobs" in word for process in _started_by(folder) for word in process.info["cmdline"]
        ):
            assert demo.poll() is None and time.monotonic() < deadline, (tmp_path / "demo.log").read_text()
            time.sleep(0.1)
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(60) == 130, (tmp_path / "demo.log").read_text()
        assert _started_by(folder) == []
    finally:
        for left in _started_by(folder):
            left.kill()
    said = " ".join((tmp_path / "demo.log").read_text().split())
    assert "milonga up --data-dir" in said and "Traceback" not in said
    assert "/setup?code=" in said, "who watches needs an account from the beginning on"

    with System(folder) as system:
        system.start_hub()
        (run,) = system.api.runs.ListRuns(projects_pb2.ListRunsRequest(project=PROJECT)).runs

        def goes_on() -> bool:
            stages = system.api.runs.GetRun(projects_pb2.GetRunRequest(name=run.name)).run.stages
            train = next(stage for stage in stages if stage.name == "train")
            return train.state == projects_pb2.STAGE_STATE_RUNNING and train.attempts == 2

        system.wait("the run to go on", goes_on, 90)


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    command = [sys.executable, "-m", "tests.e2e.demo", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "--data-dir" in done.stdout
    assert (tmp_path / "thesis.txt").exists()
