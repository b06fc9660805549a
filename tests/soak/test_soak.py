"""A sample of `make soak`, and proof that it would notice."""

from __future__ import annotations

import shutil
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
