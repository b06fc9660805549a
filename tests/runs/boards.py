"""A hub with one run, and boards inside the test's own process: connected like any device, they answer from a formula."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from milonga_hub.blobs import BlobStore
from milonga_hub.devices.models import Engine, Inventory
from milonga_hub.devices.service import DeviceService, Enrolment, MeasurementItem
from milonga_hub.devices.values import Hello, Latency, MeasurementResult, MeasurementTask
from milonga_hub.jobs import Jobs, Workers
from milonga_hub.projects.models import Limits, ProjectSpec
from milonga_hub.runs.models import Stage, Trigger
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.stages import Report, stage
from milonga_hub.runs.work import Services as RunServices
from milonga_hub.runs.work import Work
from milonga_hub.search.service import SearchService

from tests.certificates import Key
from tests.datasets.test_datasets import _packed, _pictures
from tests.ready_jobs import READY
from tests.web.filled import Services

T = TypeVar("T")

# Milliseconds that a board takes for a model, None where it fails; the number counts what it was asked before.
Speed = Callable[[MeasurementItem, int], float | None]


@dataclass
class Board:
    """One device of a type of its own."""

    name: str
    speed: Speed
    # Bytes that its process takes for a model; 0 as of agents that do not tell.
    memory: Callable[[MeasurementItem], int] = lambda item: 0
    asked: list[MeasurementItem] = field(default_factory=list)

    @property
    def inventory(self) -> Inventory:
        return Inventory(board=self.name, machine_id=self.name, cores=4, engines=[Engine(name="onnxruntime")])

    def answer(self, task: MeasurementTask) -> MeasurementResult:
        ms = self.speed(task.item, len(self.asked))
        self.asked.append(task.item)
        if ms is None:
            return MeasurementResult(id=task.id, error="no memory")
        return MeasurementResult(
            id=task.id,
            latency_ms=Latency(p50=ms, p90=ms, p99=ms, mean=ms, count=20),
            peak_memory_bytes=self.memory(task.item),
        )


@asynccontextmanager
async def connected(devices: DeviceService, boards: Mapping[str, Board]) -> AsyncIterator[None]:
    """Keep the boards connected; those that are new enrol first."""
    for board in boards.values():
        _enrol(devices, board)
    tasks = [asyncio.create_task(_serve(devices, board)) for board in boards.values()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if not isinstance(error, asyncio.CancelledError):
                raise AssertionError("a board ended by itself") from error


def _enrol(devices: DeviceService, board: Board) -> None:
    if board.name not in {device.name for device in devices.list()[0]}:
        _, token = devices.create_join_token({}, uses=1)
        devices.enrol(Enrolment(token, board.name, board.inventory, "0.1.0", True, {}, Key().request()))


async def _serve(devices: DeviceService, board: Board) -> None:
    stream = devices.connections.open(board.name, Hello(inventory=board.inventory, agent_version="0.1.0"))
    try:
        while True:
            message = await stream.next()
            if isinstance(message, MeasurementTask):
                devices.connections.measured(board.name, board.answer(message))
    finally:
        devices.connections.close(stream)


def weights(blobs: BlobStore, item: MeasurementItem) -> int:
    """Return how many weights the model has that a board was sent."""
    file = next(file for file in item.files if file.path.endswith(".onnx"))
    return sum(int(np.prod(one.dims)) for one in onnx.load(str(blobs.path(file.digest))).graph.initializer)


class Hub:
    """A hub with one run of a project, ten classes, and boards of a type each."""

    def __init__(self, folder: Path, spec: ProjectSpec, workers: Workers = READY) -> None:
        self.spec = spec
        self.services = Services(folder)
        self.services.datasets.import_archive("digits", _packed(_pictures(folder / "pictures")), False, False)
        self.services.projects.apply("digits", spec)
        self.search = SearchService(self.services.database, self.services.devices)
        self.boards: dict[str, Board] = {}
        run = self.services.runs.start("digits", Trigger.MANUAL, "")
        self.work = Work(_run_services(self.services, self.search, folder / "runs", workers), run)
        self.work.folder.mkdir(parents=True)

    def plan(self, limits: Mapping[str, Limits]) -> RunPlan:
        """Return the plan for all boards; one that has no limits is free."""
        types = [
            TypePlan(name=name, limits=limits.get(name, Limits()), targets=self.spec.build.targets)
            for name in sorted(self.boards)
        ]
        return RunPlan(
            spec=self.spec,
            dataset_version="datasets/digits/versions/1",
            classes=[str(one) for one in range(10)],
            types=types,
        )

    def run(self, work: Callable[[], Awaitable[T]], seconds: float = 200) -> T:
        """Do the work with all boards connected; it fails where it takes longer."""

        async def within() -> T:
            async with asyncio.timeout(seconds), connected(self.services.devices, self.boards):
                return await work()

        return asyncio.run(within())

    async def stage(self, name: str, action: Callable[[Report], Awaitable[T]]) -> T:
        return await stage(self.services.runs, self.work.run.name, name, action)

    def told(self, name: str) -> Stage:
        return next(one for one in self.services.runs.get(self.work.run.name).stages if one.name == name)

    def asked(self) -> dict[str, int]:
        return {name: len(board.asked) for name, board in self.boards.items()}


def _run_services(hub: Services, search: SearchService, folder: Path, workers: Workers) -> RunServices:
    return RunServices(
        events=hub.events,
        blobs=hub.blobs,
        folder=folder,
        datasets=hub.datasets,
        devices=hub.devices,
        models=hub.models,
        builds=hub.builds,
        rollouts=hub.rollouts,
        runs=hub.runs,
        search=search,
        jobs=Jobs(workers),
    )
