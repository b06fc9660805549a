"""Profiling: each latency model gets the measurements that it needs, within a budget, and the same ones after a restart."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from milonga_hub.devices.models import Measurement
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.errors import FailedPrecondition
from milonga_hub.learning.checkpoint import Checkpoint, Recipe
from milonga_hub.learning.spaces import space
from milonga_hub.learning.supernet import Supernet
from milonga_hub.projects.models import BuildSpec, ProjectSpec, SearchSpec, TrainingSpec
from milonga_hub.runs.models import Trigger
from milonga_hub.runs.profile import check_measured, profile
from milonga_hub.runs.profiled import Profiled
from milonga_hub.runs.rules_reuse import AGAIN

from tests.runs.boards import Board, Hub, weights

FIRST, FURTHER = 4, 5
SPEC = ProjectSpec(
    dataset="digits",
    training=TrainingSpec(space="resnet", resolution_px=16, threads=1),
    search=SearchSpec(measured_subnets=FIRST, further_measurements=FURTHER),
    build=BuildSpec(targets=["onnxruntime/fp32"]),
)


class _Hub(Hub):
    """Two boards: one takes time by the number of weights, one takes any time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SPEC)
        speeds = {"quiet": self.exact, "noisy": self._noisy}
        self.boards = {name: Board(name, speed) for name, speed in speeds.items()}
        self._checkpoint = _untrained(folder / "checkpoint.pt")

    def exact(self, item: MeasurementItem, asked: int) -> float:
        return 0.05 + 1e-5 * weights(self.services.blobs, item)

    def _noisy(self, item: MeasurementItem, asked: int) -> float:
        seed = int(hashlib.sha256(item.subnet.encode()).hexdigest()[:8], 16)
        return self.exact(item, asked) * float(np.exp(np.random.default_rng(seed).normal(0.0, 1.5)))

    def again(self) -> Profiled:
        """Profile in a later run of the same project."""
        run = self.services.runs.start("digits", Trigger.MANUAL, "")
        self.work = replace(self.work, run=run)
        self.work.folder.mkdir(parents=True)
        return self.profile()

    def profile(self) -> Profiled:
        plan, trained = self.plan({}), {"checkpoint": str(self._checkpoint)}
        return self.run(lambda: self.stage("profile", lambda report: profile(self.work, plan, trained, report)))


def _untrained(path: Path) -> Path:
    training = SPEC.training
    supernet = Supernet(space(training.space, training.resolution_px), 10)
    recipe = Recipe(training.space, training.resolution_px, epochs=1, batch_size=16, learning_rate=0.1, seed=0)
    state = supernet.state_dict()
    Checkpoint(recipe, supernet.space.settings, 10, state, state, {}, 0, [], None, None).write(path)
    return path


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> _Hub:
    return _Hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def profiled(hub: _Hub) -> Profiled:
    return hub.profile()


def test_a_model_that_is_not_trusted_gets_further_measurements_until_it_is(profiled: Profiled, hub: _Hub) -> None:
    quality = profiled.quality["quiet"]
    assert quality.trusted and 0 < quality.further < FURTHER
    assert len(profiled.good("quiet")) == FIRST + quality.further
    assert (
        f"the latency model of quiet is trusted after {quality.further} further measurements"
        in hub.told("profile").message
    )
    assert hub.told("profile").metrics["latency_trusted quiet"] == 1.0
    assert hub.told("profile").metrics["further_measurements quiet"] == quality.further


def test_a_model_that_nothing_helps_gets_no_more_than_its_budget(profiled: Profiled, hub: _Hub) -> None:
    assert not profiled.quality["noisy"].trusted
    assert len(profiled.measured["noisy"]) == FIRST + FURTHER
    said = f"the latency model of noisy is not to be trusted after {FURTHER} further measurements"
    assert said in hub.told("profile").message and "spec.search.further_measurements" in hub.told("profile").message
    assert hub.told("profile").metrics["latency_trusted noisy"] == 0.0
    assert hub.told("profile").metrics["latency_error noisy"] > 0.2


def test_no_subnet_is_measured_twice(profiled: Profiled, hub: _Hub) -> None:
    for name, board in hub.boards.items():
        subnets = [item.subnet for item in board.asked]
        assert len(set(subnets)) == len(subnets) == len(profiled.measured[name])


def test_a_run_that_is_resumed_knows_what_it_knew_when_it_began(profiled: Profiled, hub: _Hub) -> None:
    training = SPEC.training
    subnet = profiled.good("quiet")[0]["subnet"]
    with hub.services.database.session() as session:
        session.add(
            Measurement(
                id="m",
                device="d",
                device_type="later",
                subnet=subnet,
                engine="e",
                precision="fp32",
                median_ms=1.0,
                purpose="profile",
            )
        )
    assert ("later", "e") in hub.search.measured(training.space, training.resolution_px)
    asked = hub.asked()
    # As if it had been killed right before the end of the stage.
    (hub.work.folder / "profiled.json").unlink()
    assert hub.profile() == profiled
    assert hub.asked() == asked


def test_a_later_run_takes_over_what_still_holds_and_measures_anew_what_says_nothing(
    profiled: Profiled, hub: _Hub
) -> None:
    """The latencies of the noisy board could not be predicted from what it measured."""
    asked, known = hub.asked(), profiled.good("quiet")
    later = hub.again()
    assert later.earlier.keys() == {"quiet"} and later.earlier["quiet"].holds
    assert hub.asked() == {"quiet": asked["quiet"] + AGAIN, "noisy": asked["noisy"] + FIRST + FURTHER}
    assert _times(later) == pytest.approx(_times(profiled))
    message = hub.told("profile").message
    assert f"{len(known)} earlier measurements of quiet hold (off by 0.0% where {AGAIN} were taken again)" in message
    assert f"{FIRST} subnets measured on noisy, with what another measured before" in message
    assert hub.told("profile").metrics["measured_before"] == len(known) - AGAIN


def test_a_later_run_measures_anew_what_does_not_hold_any_more_and_the_next_takes_that_over(hub: _Hub) -> None:
    """The quiet board takes half as long again."""
    asked = hub.asked()
    hub.boards["quiet"].speed = lambda item, number: 1.5 * hub.exact(item, number)
    later = hub.again()
    assert not later.earlier["quiet"].holds and later.earlier["quiet"].change == pytest.approx(0.5)
    assert len(later.measured["quiet"]) == hub.asked()["quiet"] - asked["quiet"] >= FIRST
    assert "quiet in earlier runs" in [one["device_type"] for one in later.history]
    assert "earlier measurements of quiet do not hold any more (off by 50.0%" in hub.told("profile").message

    asked = hub.asked()
    last = hub.again()
    assert last.earlier["quiet"].holds, "what did not hold once is not asked again"
    assert hub.asked()["quiet"] == asked["quiet"] + AGAIN + last.quality["quiet"].further
    assert _times(last).items() >= _times(later).items()


def _times(profiled: Profiled) -> dict[str, float]:
    return {row["subnet"]: row["median_ms"] for row in profiled.good("quiet")}


def test_a_device_that_fails_too_often_ends_the_stage_with_its_reason(hub: _Hub) -> None:
    failed = [
        Measurement(id=str(n), device="d", device_type="t", subnet="s", engine="e", precision="fp32", error="no memory")
        for n in range(5)
    ]
    with pytest.raises(FailedPrecondition, match="0 of 5 measurements on t succeeded: no memory"):
        check_measured(hub.work, "t", failed)
