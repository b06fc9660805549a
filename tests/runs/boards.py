"""Boards inside the test's own process: they enrol and stay connected like any device, and answer from a formula."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from milonga_hub.devices.models import Engine, Inventory
from milonga_hub.devices.service import DeviceService, Enrolment, MeasurementItem
from milonga_hub.devices.values import Hello, Latency, MeasurementResult, MeasurementTask

# Milliseconds that a board takes for a model, None where it fails; the number counts what it was asked before.
Speed = Callable[[MeasurementItem, int], float | None]


@dataclass
class Board:
    """One device of a type of its own."""

    name: str
    speed: Speed
    asked: list[MeasurementItem] = field(default_factory=list)

    @property
    def inventory(self) -> Inventory:
        return Inventory(board=self.name, machine_id=self.name, cores=4, engines=[Engine(name="onnxruntime")])

    def answer(self, task: MeasurementTask) -> MeasurementResult:
        ms = self.speed(task.item, len(self.asked))
        self.asked.append(task.item)
        if ms is None:
            return MeasurementResult(id=task.id, error="no memory")
        return MeasurementResult(id=task.id, latency_ms=Latency(p50=ms, p90=ms, p99=ms, mean=ms, count=20))


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
        key = board.name.encode().ljust(32, b"-")
        devices.enrol(Enrolment(token, board.name, board.inventory, "0.1.0", True, {}, key))


async def _serve(devices: DeviceService, board: Board) -> None:
    stream = devices.connections.open(board.name, Hello(inventory=board.inventory, agent_version="0.1.0"))
    try:
        while True:
            message = await stream.next()
            if isinstance(message, MeasurementTask):
                devices.connections.measured(board.name, board.answer(message))
    finally:
        devices.connections.close(stream)
