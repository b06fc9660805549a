"""kill -9, anywhere: of the hub in each stage of a run, of a job, of an agent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
from milonga.v1 import projects_pb2

from tests.e2e.loop import Loop
from tests.e2e.processes import System

KILLED_STAGES = ("prepare", "train", "profile", "search", "build", "rollout")


def run_and_kill(loop: Loop) -> None:
    """See the first run to its end, which everything is killed once in the middle of."""
    system = loop.system
    actions: dict[str, Callable[[], None]] = {stage: lambda: kill_hub(system) for stage in KILLED_STAGES}
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
                    kill_agent(system, "pi5")
            else:
                killed.add(stage.name)
                actions.get(stage.name, lambda: None)()
        return run if run.state not in (projects_pb2.RUN_STATE_RUNNING, projects_pb2.RUN_STATE_QUEUED) else None

    run = system.wait("the run to end", ended, 1200)
    assert run.state == projects_pb2.RUN_STATE_SUCCEEDED, run.error
    assert job_killed and agent_killed
    assert {"train", "search"} <= killed, "the test came too late to kill anything"


def kill_hub(system: System) -> None:
    """Kill the hub and start it again."""
    system.hub.kill()
    system.start_hub()


def _kill_job(system: System) -> bool:
    for child in psutil.Process(system.hub.pid).children():
        if "milonga_hub.jobs" in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)
            return True
    return False


def kill_agent(system: System, name: str) -> None:
    """Kill an agent and start it again."""
    system.agents[name].kill()
    system.start_agent(name)
