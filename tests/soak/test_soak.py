"""A sample of `make soak`, and proof that it would notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from milonga_agent import steps

from tests.soak.__main__ import MEMORY, Point, Stage
from tests.soak.story import Broken

# Primes, so that samples of calls that come in rhythm are not all of one kind.
_KILLS_APART, _POWER_CUTS_APART = 211, 61


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """Return a folder where fsync costs nothing."""
    if shutil.which("strace") is None:
        pytest.skip("power cuts are replayed from a log of strace, which is not installed here")
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def stage(memory: Path) -> Stage:
    return Stage(3, memory / "careful")


def _sample(stage: Stage, kind: str, apart: int) -> Iterator[Point]:
    yield from [point for point in stage.points() if point.kind == kind][::apart]


def test_an_agent_that_is_killed_at_a_system_call_comes_back_with_a_good_bundle(stage: Stage) -> None:
    for point in _sample(stage, "kill", _KILLS_APART):
        stage.die(point)


def test_an_agent_whose_power_is_cut_comes_back_with_a_good_bundle(stage: Stage) -> None:
    for point in _sample(stage, "power", _POWER_CUTS_APART):
        stage.die(point)


def test_an_agent_that_does_not_wait_for_the_disk_would_be_noticed(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILONGA_SOAK_FORGETFUL", "1")
    stage = Stage(3, memory / "forgetful")
    with pytest.raises(Broken):
        for point in _sample(stage, "power", 3):
            stage.die(point)


def test_an_agent_that_removes_bundles_in_place_would_be_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps.Depot, "_remove", lambda self, bundle: shutil.rmtree(str(bundle)))
    with pytest.raises(Broken):
        # The last thing that the agent does is to remove the bad bundle.
        for point in list(_sample(stage, "kill", 1))[-140::2]:
            stage.die(replace(point, second=0))


def _join(tmp_path: Path, machines: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """Let machines die while they join, in a process of its own, which has not used gRPC before it forks."""
    command = [sys.executable, "-m", "tests.soak", "--points", "0", "--machines", str(machines)]
    return subprocess.run(
        [*command, "--progress", str(tmp_path / "progress.json")],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=300,
    )


def test_a_machine_that_is_killed_while_it_joins_joins_as_the_same_device(memory: Path, tmp_path: Path) -> None:
    done = _join(tmp_path, 8)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 machines died while they joined: 0 were left broken" in done.stdout


def test_a_machine_that_keeps_half_a_certificate_would_be_noticed(memory: Path, tmp_path: Path) -> None:
    done = _join(tmp_path, 1, MILONGA_SOAK_HALF="1")
    assert done.returncode == 1 and "cannot read what it wrote" in done.stdout
