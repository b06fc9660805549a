"""Have subnets and builds timed on the devices themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milonga_hub.blobs import digest_of_file
from milonga_hub.builds.models import Build
from milonga_hub.devices.models import File, Measurement
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work


async def measure_subnets(
    work: Work,
    plan: RunPlan,
    wanted: Mapping[str, Sequence[dict[str, Any]]],
    purpose: str,
    report: Report,
    start: float,
    end: float = 1.0,
) -> dict[str, list[Measurement]]:
    """Measure subnets ({"subnet", "precision", "onnx"}) by type; types on different machines are measured side by side.

    `start` and `end` are the share of the stage that this is.
    """
    types = {item.name: item for item in plan.types}
    items = {
        name: [_item(work, types[name], subnet) for subnet in subnets] for name, subnets in wanted.items() if subnets
    }
    return await measure_items(work, items, purpose, report, start, end)


def _item(work: Work, type_: TypePlan, subnet: Mapping[str, Any]) -> MeasurementItem:
    path = Path(subnet.get("measured_onnx", subnet["onnx"]))
    work.services.blobs.put_file(path)
    file = File(path="model.onnx", digest=digest_of_file(path), size_bytes=path.stat().st_size)
    return MeasurementItem(subnet=subnet["subnet"], engine=type_.engine, precision=subnet["precision"], files=[file])


async def measure_items(
    work: Work,
    items: Mapping[str, list[MeasurementItem]],
    purpose: str,
    report: Report,
    start: float = 0.0,
    end: float = 1.0,
) -> dict[str, list[Measurement]]:
    done = dict.fromkeys(items, 0)
    total = sum(len(some) for some in items.values())

    async def one(name: str) -> list[Measurement]:
        def tell(count: int, _: int) -> None:
            done[name] = count
            finished = sum(done.values())
            report(start + (end - start) * finished / max(1, total), f"measured {finished} of {total} on the devices")

        # In random order, so that heat and other work do not fall on the large ones alone; the same after a restart.
        order = random.Random(f"{work.run.name} {purpose} {name}").sample(items[name], len(items[name]))
        return await work.services.devices.measure(name, order, work.run.name, purpose, tell)

    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(one(name)) for name in items}
    return {name: task.result() for name, task in tasks.items()}


def median_times(measured: Sequence[Measurement]) -> dict[tuple[str, str], float]:
    """Return ms by subnet and precision; those that failed are left out."""
    return {(one.subnet, one.precision): one.median_ms for one in measured if one.median_ms is not None}


def build_item(build: Build) -> MeasurementItem:
    return MeasurementItem(subnet=build.subnet, engine=build.engine, precision=build.precision, files=list(build.files))
