"""A sample of `make soak`, and proof that it would notice."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from milonga_agent import steps
from milonga_agent.state import Store

from tests.e2e.processes import System
from tests.soak.__main__ import MEMORY, Point, Stage
from tests.soak.enrolment import Machines
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


@pytest.fixture(scope="module")
def machines(memory: Path) -> Iterator[Machines]:
    with System(memory / "system") as system:
        system.start_hub()
        made = Machines(system, memory / "machines")
        # The first one lives: it tells how many system calls there are.
        made.die(0)
        yield made


def test_a_machine_that_is_killed_while_it_joins_joins_as_the_same_device(machines: Machines) -> None:
    for number in range(1, 9):
        machines.die(number)
    machines.check()


def test_a_machine_that_keeps_half_a_certificate_would_be_noticed(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Store.keep_certificate
    monkeypatch.setattr(Store, "keep_certificate", lambda self, certificate: keep(self, certificate[:99]))
    with pytest.raises(Broken, match="cannot read"):
        machines.die(100)
