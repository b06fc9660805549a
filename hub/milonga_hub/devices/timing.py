"""Have a device time kernels that a job compiled for its type: one file at a time, by whoever is there, lost devices forgiven."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import col, select

from milonga_hub.db import Database
from milonga_hub.devices.measuring import Measuring
from milonga_hub.devices.models import Device
from milonga_hub.devices.rules import times_kernels
from milonga_hub.devices.streams import DeviceLost, Streams
from milonga_hub.devices.values import KernelTime, TimingItem, TimingResult, TimingTask
from milonga_hub.errors import FailedPrecondition
from milonga_hub.events import EventBus

# Beyond what the kernels may take: fetching them over a slow line, importing the runtime on a slow board.
_SLACK_SECONDS = 180.0
# Kernels that took their device down so often are not sent again.
_MAX_LOSSES = 3


@dataclass(frozen=True)
class Timed:
    """What a device found, and how long none was there before, or none had time."""

    device: str
    kernels: list[KernelTime]
    waited_seconds: float


@dataclass(frozen=True)
class _Asked:
    item: TimingItem
    answer: asyncio.Future[TimingResult]


class Timing:
    """Asks connected devices of a type; whoever measures on the same machine has its turn before or after."""

    def __init__(self, database: Database, events: EventBus, streams: Streams, measuring: Measuring) -> None:
        self._database = database
        self._events = events
        self._streams = streams
        self._measuring = measuring
        self._asked: dict[tuple[str, str], _Asked] = {}

    async def time(
        self,
        device_type: str,
        item: TimingItem,
        wanted: str = "",
        preferred: str = "",
        patience_seconds: float = 600.0,
        tell: Callable[[str], None] = lambda words: None,
    ) -> Timed:
        """Return what a device of the type found: `wanted`, where it is named, else `preferred` if it is there, else any.

        Raises FailedPrecondition where no device that can is there for `patience_seconds`, or where it refuses.
        """
        losses, waited = 0, 0.0
        while True:
            device, seconds = await self._found(device_type, wanted, preferred, patience_seconds, tell)
            waited += seconds
            task = TimingTask(f"t-{uuid.uuid4().hex[:24]}", item)
            began = asyncio.get_running_loop().time()
            try:
                async with self._measuring.machine(device):
                    waited += asyncio.get_running_loop().time() - began
                    result = await self._ask(device.name, task)
            except DeviceLost as lost:
                losses += 1
                tell(str(lost))
                if losses < _MAX_LOSSES:
                    continue
                error = f"{device.name} disconnected while timing it, {losses} times in all"
                result = TimingResult(id=task.id, kernels=[KernelTime(error=error)] * item.count)
            if result.error:
                raise FailedPrecondition(f"{device.name} timed nothing: {result.error}")
            if len(result.kernels) != item.count:
                raise FailedPrecondition(f"{device.name} answered for {len(result.kernels)} kernels of {item.count}")
            return Timed(device.name, result.kernels, waited)

    def answered(self, device: str, result: TimingResult) -> None:
        """Take an answer; one that nobody waits for (any more) is dropped."""
        asked = self._asked.get((device, result.id))
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(result)

    def lost(self, device: str) -> None:
        """Give back what the device was asked: its stream has ended."""
        for (name, _), asked in self._asked.items():
            if name == device and not asked.answer.done():
                asked.answer.set_exception(DeviceLost(f"{device} disconnected"))

    def digests_for(self, device: str) -> set[str]:
        """Return the digests of all files that the device needs for what it is timing now."""
        asked = [one.item for (name, _), one in self._asked.items() if name == device]
        return {file.digest for item in asked for file in (item.session, item.kernels)}

    async def _found(
        self, device_type: str, wanted: str, preferred: str, patience_seconds: float, tell: Callable[[str], None]
    ) -> tuple[Device, float]:
        """Return a device that is there, and how long it was waited for."""
        clock = asyncio.get_running_loop().time
        began, told = clock(), False
        with self._events.listen("devices/") as changes:
            try:
                async with asyncio.timeout(patience_seconds):
                    while not (able := self._able(device_type, wanted)):
                        if not told:
                            tell(f"waiting for {wanted or f'a device of type {device_type}'} to connect")
                            told = True
                        await changes.next()
            except TimeoutError as error:
                raise FailedPrecondition(self._why_none(device_type, wanted, patience_seconds)) from error
        found = next((one for one in able if one.name == preferred), able[0])
        return found, clock() - began if told else 0.0

    def _able(self, device_type: str, wanted: str) -> list[Device]:
        return [
            device
            for device in self._of_type(device_type, wanted)
            if (stream := self._streams.anywhere(device.name)) is not None
            and stream.knows_tuning
            and times_kernels(device)
        ]

    def _of_type(self, device_type: str, wanted: str) -> list[Device]:
        statement = select(Device).where(Device.device_type == device_type).order_by(col(Device.name))
        if wanted:
            statement = statement.where(Device.name == wanted)
        with self._database.session() as session:
            return [*session.exec(statement)]

    def _why_none(self, device_type: str, wanted: str, patience_seconds: float) -> str:
        who = wanted or f"device of type {device_type}"
        known = [one for one in self._of_type(device_type, wanted) if self._streams.anywhere(one.name) is not None]
        waited = f"for {patience_seconds:g} s"
        if not known:
            return f"no {who} was connected {waited}; what was tuned until then is kept"
        if not any(map(times_kernels, known)):
            return f"no {who} that is connected has tvm; install it there: pip install 'milonga-agent[tvm]'"
        return f"no {who} that is connected has an agent that times kernels; update it, or start it without --no-tuning"

    async def _ask(self, device: str, task: TimingTask) -> TimingResult:
        stream = self._streams.anywhere(device)
        if stream is None:
            raise DeviceLost(f"{device} disconnected")
        key = (device, task.id)
        asked = self._asked[key] = _Asked(task.item, asyncio.get_running_loop().create_future())
        seconds = task.item.max_seconds + _SLACK_SECONDS
        try:
            stream.send(f"timing/{task.id}", task)
            async with asyncio.timeout(seconds):
                return await asked.answer
        except TimeoutError:
            error = f"{device} gave no answer within {seconds:g} s"
            return TimingResult(id=task.id, kernels=[KernelTime(error=error)] * task.item.count)
        finally:
            del self._asked[key]
