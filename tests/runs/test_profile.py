"""Profiling: each latency model gets the measurements that it needs, within a budget, and the same ones after a restart."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from milonga_hub.devices.models import Measurement
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.errors import FailedPrecondition
from milonga_hub.learning.checkpoint import Checkpoint, Recipe
from milonga_hub.learning.spaces import space
from milonga_hub.learning.supernet import Supernet
from milonga_hub.projects.models import BuildSpec, Limits, ProjectSpec, SearchSpec, TrainingSpec
from milonga_hub.runs.models import Stage, Trigger
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.profile import Profiled, check_measured, profile
from milonga_hub.runs.stages import stage
from milonga_hub.runs.work import Services as RunServices
from milonga_hub.runs.work import Work
from milonga_hub.search.service import SearchService

from tests.datasets.test_datasets import _packed, _pictures
from tests.runs.boards import Board, connected
from tests.web.filled import Services

FIRST, FURTHER = 4, 5
SPEC = ProjectSpec(
    dataset="digits",
    training=TrainingSpec(space="resnet", resolution_px=16, threads=1),
    search=SearchSpec(measured_subnets=FIRST, further_measurements=FURTHER),
    build=BuildSpec(targets=["onnxruntime/fp32"]),
)


class Hub:
    """A hub with one run whose supernet is there already, and the boards of the run."""

    def __init__(self, folder: Path) -> None:
        self.services = Services(folder)
        self.services.datasets.import_archive("digits", _packed(_pictures(folder / "pictures")), False, False)
        self.services.projects.apply("digits", SPEC)
        self.search = SearchService(self.services.database, self.services.devices)
        run = self.services.runs.start("digits", Trigger.MANUAL, "")
        s = self.services
        self.work = Work(
            RunServices(
                events=s.events, blobs=s.blobs, folder=folder / "runs", datasets=s.datasets, devices=s.devices,
                models=s.models, builds=s.builds, rollouts=s.rollouts, runs=s.runs, search=self.search,
                cpu=asyncio.Semaphore(1),
            ),
            run,
        )  # fmt: skip
        self.work.folder.mkdir(parents=True)
        speeds = {"quiet": self._exact, "noisy": self._noisy}
        self.boards = {name: Board(name, speed) for name, speed in speeds.items()}
        self.checkpoint = _untrained(folder / "checkpoint.pt")

    def _exact(self, item: MeasurementItem, asked: int) -> float:
        return 0.05 + 1e-5 * self._weights(item)

    def _noisy(self, item: MeasurementItem, asked: int) -> float:
        return self._exact(item, asked) * float(np.exp(self._random(item).normal(0.0, 1.5)))

    @staticmethod
    def _random(item: MeasurementItem) -> np.random.Generator:
        return np.random.default_rng(int(hashlib.sha256(item.subnet.encode()).hexdigest()[:8], 16))

    def _weights(self, item: MeasurementItem) -> int:
        model = onnx.load(str(self.services.blobs.path(item.files[0].digest)))
        return sum(int(np.prod(one.dims)) for one in model.graph.initializer)

    async def profile(self) -> Profiled:
        types = sorted({device.device_type for device in self.services.devices.list()[0]})
        plan = RunPlan(
            spec=SPEC,
            dataset_version="",
            classes=[str(digit) for digit in range(10)],
            types=[TypePlan(name=name, limits=Limits(), targets=SPEC.build.targets) for name in types],
        )
        trained = {"checkpoint": str(self.checkpoint)}
        return await stage(
            self.services.runs, self.work.run.name, "profile", lambda report: profile(self.work, plan, trained, report)
        )

    def run(self) -> Profiled:
        async def within() -> Profiled:
            async with asyncio.timeout(120), connected(self.services.devices, self.boards):
                return await self.profile()

        return asyncio.run(within())

    @property
    def told(self) -> Stage:
        return next(one for one in self.services.runs.get(self.work.run.name).stages if one.name == "profile")


def _untrained(path: Path) -> Path:
    training = SPEC.training
    supernet = Supernet(space(training.space, training.resolution_px), 10)
    recipe = Recipe(training.space, training.resolution_px, epochs=1, batch_size=16, learning_rate=0.1, seed=0)
    state = supernet.state_dict()
    Checkpoint(recipe, supernet.space.settings, 10, state, state, {}, 0, [], None, None).write(path)
    return path


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def profiled(hub: Hub) -> Profiled:
    return hub.run()


def test_a_model_that_is_not_trusted_gets_further_measurements_until_it_is(profiled: Profiled, hub: Hub) -> None:
    quality = profiled.quality["quiet"]
    assert quality.trusted and 0 < quality.further < FURTHER
    assert len(profiled.good("quiet")) == FIRST + quality.further
    assert f"the latency model of quiet is trusted after {quality.further} further measurements" in hub.told.message
    assert hub.told.metrics["latency_trusted quiet"] == 1.0
    assert hub.told.metrics["further_measurements quiet"] == quality.further


def test_a_model_that_nothing_helps_gets_no_more_than_its_budget(profiled: Profiled, hub: Hub) -> None:
    assert not profiled.quality["noisy"].trusted
    assert len(profiled.measured["noisy"]) == FIRST + FURTHER
    said = f"the latency model of noisy is not to be trusted after all {FURTHER} further measurements"
    assert said in hub.told.message and "nothing else running on it" in hub.told.message
    assert hub.told.metrics["latency_trusted noisy"] == 0.0
    assert hub.told.metrics["latency_error noisy"] > 0.2


def test_no_subnet_is_measured_twice(profiled: Profiled, hub: Hub) -> None:
    for name, board in hub.boards.items():
        subnets = [item.subnet for item in board.asked]
        assert len(set(subnets)) == len(subnets) == len(profiled.measured[name])


def test_a_run_that_is_resumed_knows_what_it_knew_when_it_began(profiled: Profiled, hub: Hub) -> None:
    training = SPEC.training
    subnet = profiled.good("quiet")[0]["subnet"]
    with hub.services.database.session() as session:
        session.add(
            Measurement(
                id="m", device="d", device_type="later", subnet=subnet, engine="e", precision="fp32", median_ms=1.0
            )
        )
    assert "later" in hub.search.measured(training.space, training.resolution_px)
    asked = {name: len(board.asked) for name, board in hub.boards.items()}
    # As if it had been killed right before the end of the stage.
    (hub.work.folder / "profiled.json").unlink()
    assert hub.run() == profiled
    assert {name: len(board.asked) for name, board in hub.boards.items()} == asked


def test_a_device_that_fails_too_often_ends_the_stage_with_its_reason(hub: Hub) -> None:
    failed = [
        Measurement(id=str(n), device="d", device_type="t", subnet="s", engine="e", precision="fp32", error="no memory")
        for n in range(5)
    ]
    with pytest.raises(FailedPrecondition, match="0 of 5 measurements on t succeeded: no memory"):
        check_measured(hub.work, "t", failed)
