"""Time models on devices: one at a time on every machine, each result kept at once, lost devices forgiven."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import col, select

from milonga_hub.db import Database
from milonga_hub.devices.models import Conditions, Device, Measurement
from milonga_hub.devices.rules import machine_of
from milonga_hub.devices.streams import DeviceLost, Streams
from milonga_hub.devices.values import MeasurementItem, MeasurementResult, MeasurementTask, MeasuringPolicy
from milonga_hub.events import EventBus

OnProgress = Callable[[int, int], None]


def measurement_id(run: str, purpose: str, device_type: str, item: MeasurementItem | None = None) -> str:
    """Return the same id for the same question, so that an answer is found again after a restart; of all items for none."""
    parts = (run, purpose, device_type, *((item.subnet, item.engine, item.precision) if item else ()))
    return "m-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class _Asked:
    task: MeasurementTask
    answer: asyncio.Future[MeasurementResult]


@dataclass
class _Batch:
    device_type: str
    run: str
    purpose: str
    items: Mapping[str, MeasurementItem]
    finished: dict[str, Measurement]
    waiting: deque[str]
    on_progress: OnProgress
    policy: MeasuringPolicy
    # Of models that are compared: what they are kept under on the device. One device measures all, while it stays.
    compared: str = ""
    losses: Counter[str] = field(default_factory=Counter)

    def tell(self) -> None:
        self.on_progress(len(self.finished), len(self.items))

    def task(self, id_: str) -> MeasurementTask:
        size = len(self.items) if self.compared else 1
        return MeasurementTask(id_, self.items[id_], self.policy, self.compared, size)


class Measuring:
    """Hands questions to connected devices of a type and waits for all answers."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        streams: Streams,
        clock: Callable[[], datetime],
        policy: MeasuringPolicy,
    ) -> None:
        self._database = database
        self._events = events
        self._streams = streams
        self._clock = clock
        self._policy = policy
        self._asked: dict[tuple[str, str], _Asked] = {}
        self._machines: dict[str, asyncio.Lock] = {}

    async def measure(
        self,
        device_type: str,
        items: Sequence[MeasurementItem],
        run: str,
        purpose: str,
        on_progress: OnProgress,
        turn: int = 0,
    ) -> list[Measurement]:
        """Return one measurement for each item, in their order; waits while no device of the type is connected.

        Those that succeeded for the same run and purpose before are returned as they are; failed ones are tried anew. `turn` counts
        the rounds, from 1, in which models are compared: one device measures all of a round, and rounds after the first are brief.
        """
        compared = measurement_id(run, purpose, device_type) if turn else ""
        policy = self._policy.brief() if turn > 1 else self._policy
        purpose = f"{purpose}, round {turn}" if turn > 1 else purpose
        ids = [measurement_id(run, purpose, device_type, item) for item in items]
        by_id = dict(zip(ids, items, strict=True))
        finished = self._finished(list(by_id))
        # Ids are hashes, others in each round: in their order, a device that slowly heats up does not favour the small or the large.
        waiting = deque(sorted(by_id.keys() - finished.keys()))
        batch = _Batch(device_type, run, purpose, by_id, finished, waiting, on_progress, policy, compared)
        batch.tell()
        await self._run(batch)
        return [batch.finished[id_] for id_ in ids]

    def answered(self, device: str, result: MeasurementResult) -> bool:
        """Take an answer; one that nobody waits for (any more) is dropped."""
        asked = self._asked.get((device, result.id))
        if asked is None or asked.answer.done():
            return False
        asked.answer.set_result(result)
        return True

    def lost(self, device: str) -> None:
        """Give back everything that the device was asked: its stream has ended."""
        for (name, _), asked in list(self._asked.items()):
            if name == device and not asked.answer.done():
                asked.answer.set_exception(DeviceLost(f"{device} disconnected"))

    def digests_for(self, device: str) -> set[str]:
        """Return the digests of all files that the device needs for what it is measuring now."""
        return {file.digest for (name, _), a in self._asked.items() if name == device for file in a.task.item.files}

    async def _run(self, batch: _Batch) -> None:
        """Keep one worker on every connected device of the type until all items are finished."""
        workers: dict[str, asyncio.Task[None]] = {}
        with self._events.listen("devices/") as changes:
            change = asyncio.ensure_future(changes.next())
            try:
                while len(batch.finished) < len(batch.items):
                    for device in self._connected(batch.device_type) if batch.waiting else ():
                        if device.name not in workers and not (batch.compared and workers):
                            workers[device.name] = asyncio.create_task(self._work(batch, device))
                    await asyncio.wait({change, *workers.values()}, return_when=asyncio.FIRST_COMPLETED)
                    if change.done():
                        change = asyncio.ensure_future(changes.next())
                    for name in [name for name, worker in workers.items() if worker.done()]:
                        workers.pop(name).result()
            finally:
                for task in (change, *workers.values()):
                    task.cancel()
                await asyncio.gather(change, *workers.values(), return_exceptions=True)

    def machine(self, device: Device) -> asyncio.Lock:
        """Return what is held while anything is timed on the device's machine."""
        return self._machines.setdefault(machine_of(device), asyncio.Lock())

    async def _work(self, batch: _Batch, device: Device) -> None:
        """Put questions to one device until none waits or the device is lost."""
        machine = self.machine(device)
        while batch.waiting:
            async with machine:
                # While this waited for the machine, others may have finished the work, or the device have left.
                if not batch.waiting or self._streams.anywhere(device.name) is None:
                    return
                id_ = batch.waiting.popleft()
                try:
                    result = await self._ask(device.name, batch.task(id_))
                except DeviceLost:
                    batch.losses[id_] += 1
                    if batch.losses[id_] < self._policy.max_losses:
                        batch.waiting.append(id_)
                        return
                    lost = f"{device.name} disconnected while measuring, {batch.losses[id_]} times in all"
                    result = MeasurementResult(id=id_, error=lost)
            self._keep(batch, device, result)

    async def _ask(self, device: str, task: MeasurementTask) -> MeasurementResult:
        stream = self._streams.anywhere(device)
        if stream is None:
            raise DeviceLost(f"{device} disconnected")
        key = (device, task.id)
        self._asked[key] = _Asked(task, asyncio.get_running_loop().create_future())
        seconds = task.item.building_seconds + task.policy.budget_seconds + task.policy.slack_seconds
        try:
            stream.send(f"measurement/{task.id}", task)
            async with asyncio.timeout(seconds):
                return await self._asked[key].answer
        except TimeoutError:
            return MeasurementResult(id=task.id, error=f"{device} gave no result within {seconds:g} s")
        finally:
            del self._asked[key]

    def _keep(self, batch: _Batch, device: Device, result: MeasurementResult) -> None:
        item = batch.items[result.id]
        latency = result.latency_ms
        error = result.error or ("" if latency and latency.p50 > 0 else f"{device.name} sent no latency")
        good = latency if latency and not error else None
        measurement = Measurement(
            id=result.id,
            device=device.name,
            device_type=batch.device_type,
            subnet=item.subnet,
            engine=item.engine,
            precision=item.precision,
            median_ms=good.p50 if good else None,
            p90_ms=good.p90 if good else None,
            p99_ms=good.p99 if good else None,
            repeats=good.count if good else 0,
            **{name: getattr(result, name) for name in Conditions.model_fields},
            measured_at=self._clock(),
            run=batch.run,
            purpose=batch.purpose,
            error=error,
        )
        with self._database.session() as session:
            session.merge(measurement)
        batch.finished[result.id] = measurement
        batch.tell()

    def _finished(self, ids: Sequence[str]) -> dict[str, Measurement]:
        with self._database.session() as session:
            found = session.exec(select(Measurement).where(col(Measurement.id).in_(ids), Measurement.error == ""))
            return {measurement.id: measurement for measurement in found}

    def _connected(self, device_type: str) -> list[Device]:
        names = self._streams.names_anywhere()
        with self._database.session() as session:
            devices = session.exec(select(Device).where(Device.device_type == device_type).order_by(col(Device.name)))
            return [device for device in devices if device.name in names]
