"""Profiling: each latency model gets the measurements that it needs, within a budget, and the same ones after a restart."""

from __future__ import annotations

import hashlib
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
from milonga_hub.runs.profile import check_measured, profile
from milonga_hub.runs.profiled import Profiled

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
        speeds = {"quiet": self._exact, "noisy": self._noisy}
        self.boards = {name: Board(name, speed) for name, speed in speeds.items()}
        self._checkpoint = _untrained(folder / "checkpoint.pt")

    def _exact(self, item: MeasurementItem, asked: int) -> float:
        return 0.05 + 1e-5 * weights(self.services.blobs, item)

    def _noisy(self, item: MeasurementItem, asked: int) -> float:
        seed = int(hashlib.sha256(item.subnet.encode()).hexdigest()[:8], 16)
        return self._exact(item, asked) * float(np.exp(np.random.default_rng(seed).normal(0.0, 1.5)))

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
                id="m", device="d", device_type="later", subnet=subnet, engine="e", precision="fp32", median_ms=1.0
            )
        )
    assert ("later", "e") in hub.search.measured(training.space, training.resolution_px)
    asked = hub.asked()
    # As if it had been killed right before the end of the stage.
    (hub.work.folder / "profiled.json").unlink()
    assert hub.profile() == profiled
    assert hub.asked() == asked


def test_a_device_that_fails_too_often_ends_the_stage_with_its_reason(hub: _Hub) -> None:
    failed = [
        Measurement(id=str(n), device="d", device_type="t", subnet="s", engine="e", precision="fp32", error="no memory")
        for n in range(5)
    ]
    with pytest.raises(FailedPrecondition, match="0 of 5 measurements on t succeeded: no memory"):
        check_measured(hub.work, "t", failed)
