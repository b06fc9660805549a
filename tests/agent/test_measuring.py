"""Builds that are measured in turn: what the agent keeps of them between rounds, timed in real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from milonga.v1 import agent_pb2, common_pb2
from milonga_agent.bundles import Bundles
from milonga_agent.downloads import Offer
from milonga_agent.engines import Engines
from milonga_agent.errors import DiskFull
from milonga_agent.files import digest_of_file
from milonga_agent.limits import Limits
from milonga_agent.measuring import Measuring
from milonga_agent.memory import Memory
from milonga_agent.outbox import Outbox
from milonga_agent.plan import State
from milonga_agent.state import Store
from milonga_agent.steps import Depot
from milonga_agent.trusting import Trust

from tests.compiler.detector import write_detector
from tests.compiler.networks import digits, write_network


class _Courier:
    """A hub's blobs, for a disk that has room for so many of them."""

    def __init__(self, known: Mapping[str, Path], blobs: Path, room: int) -> None:
        self._known, self._blobs, self._room = known, blobs, room
        self.fetched: list[str] = []

    async def fetch(self, digest: str, offset: int, length: int = 0) -> AsyncIterator[bytes]:
        if len([path for path in self._blobs.iterdir() if "." not in path.name]) >= self._room:
            raise DiskFull("there is no room")
        self.fetched.append(digest)
        yield self._known[digest].read_bytes()[offset:]

    async def offer(self, digest: str, held: Sequence[str]) -> Offer:
        return Offer()


def _agent(folder: Path, known: Mapping[str, Path], room: int) -> tuple[Measuring, Bundles, _Courier]:
    memory, depot = Memory(Store(folder)), Depot(folder)
    memory.set(State(generation=1))
    courier = _Courier(known, depot.blobs, room)
    bundles = Bundles(depot, Engines(folder / "engines", Limits(), lambda record: None), Trust(folder), courier, memory)  # type: ignore[arg-type]
    return Measuring(folder, Limits(), bundles, Outbox()), bundles, courier


def _request(model: Path, engine: str, batch: str, size: int) -> agent_pb2.MeasurementRequest:
    file = common_pb2.File(path="model.onnx", digest=digest_of_file(model), size_bytes=model.stat().st_size)
    return agent_pb2.MeasurementRequest(
        id=f"{engine} {batch}", files=[file], engine=engine, batch=batch, batch_size=size,
        warm_up_repeats=1, min_repeats=2, max_repeats=5, budget_seconds=0.5,
    )  # fmt: skip


def _fetched(folder: Path, room: int) -> tuple[list[int], list[int]]:
    """Return how many files were fetched, and how many lay there, after each of two rounds of two builds and one by itself."""
    classifier, detector = folder / "classifier.onnx", folder / "detector.onnx"
    write_network(classifier, digits())
    write_detector(detector)

    async def story() -> tuple[list[int], list[int]]:
        measuring, bundles, courier = _agent(
            folder / "agent", {digest_of_file(model): model for model in (classifier, detector)}, room
        )
        asked = [
            _request(classifier, "onnxruntime", "batch", 2),
            _request(detector, "reference", "batch", 2),
            _request(detector, "reference", "batch", 2),
            _request(classifier, "onnxruntime", "batch", 2),
            _request(classifier, "onnxruntime", "alone", 1),
        ]
        fetched, lie = [], []
        for request in asked:
            result = await measuring.measure(request)
            assert not result.error and result.latency_ms.p50 > 0, result.error
            fetched.append(len(courier.fetched))
            lie.append(len(list(bundles.depot.blobs.iterdir())))
        return fetched, lie

    return asyncio.run(story())


def test_builds_that_are_measured_in_turn_are_fetched_once_and_go_when_another_batch_comes(tmp_path: Path) -> None:
    assert _fetched(tmp_path, room=2) == ([1, 2, 2, 2, 2], [1, 2, 2, 2, 0])


def test_a_device_without_room_for_all_of_them_fetches_each_again(tmp_path: Path) -> None:
    assert _fetched(tmp_path, room=1) == ([1, 2, 2, 3, 3], [1, 1, 1, 1, 0])
