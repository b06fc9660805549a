"""Have subnets and builds timed on the devices themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from milonga_hub.builds.models import Build
from milonga_hub.devices.models import File, Measurement
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work


async def measure_subnets(
    work: Work,
    wanted: Mapping[str, Sequence[dict[str, Any]]],
    purpose: str,
    report: Report,
    start: float,
    end: float = 1.0,
) -> dict[str, list[Measurement]]:
    """Measure subnets ({"subnet", "engine", "precision", "files"}) by type; types on different machines are measured side by side.

    `start` and `end` are the share of the stage that this is.
    """
    items = await asyncio.to_thread(
        lambda: {name: [_item(work, subnet) for subnet in subnets] for name, subnets in wanted.items() if subnets}
    )
    return await measure_items(work, items, purpose, report, start, end)


def _item(work: Work, subnet: Mapping[str, Any]) -> MeasurementItem:
    files = [
        File(path=name, digest=work.services.blobs.put_file(Path(path)), size_bytes=Path(path).stat().st_size)
        for name, path in subnet["files"].items()
    ]
    return MeasurementItem(subnet["subnet"], subnet["engine"], subnet["precision"], files)


def target_of(subnet: Mapping[str, Any]) -> str:
    return f"{subnet['engine']}/{subnet['precision']}"


def of_targets(subnets: Sequence[dict[str, Any]], targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return the subnets that are built for one of these targets, in the order of the targets."""
    return [one for target in targets for one in subnets if target_of(one) == target]


async def measure_items(
    work: Work,
    items: Mapping[str, list[MeasurementItem]],
    purpose: str,
    report: Report,
    start: float = 0.0,
    end: float = 1.0,
) -> dict[str, list[Measurement]]:
    """Measure the items of each type once; types on different machines are measured side by side."""
    told = _Told(report, items, start, end)

    def one(name: str) -> Awaitable[list[Measurement]]:
        # In random order, so that heat and other work do not fall on the large ones alone; the same after a restart.
        order = random.Random(f"{work.run.name} {purpose} {name}").sample(items[name], len(items[name]))
        return work.services.devices.measure(name, order, work.run.name, purpose, told.counting(name))

    return await _side_by_side(items, one)


async def measure_builds(
    work: Work, builds: Mapping[str, Sequence[Build]], report: Report, start: float, end: float
) -> None:
    """Have the builds of each type measured in turn until its fastest is known, and keep with each what came of it."""
    told = _Told(report, builds, start, end)

    def one(name: str) -> Awaitable[list[Measurement]]:
        services, run = work.services, work.run.name
        counting = told.counting(name)
        return services.builds.measure(services.devices, builds[name], run, "build", counting, told.say)

    await _side_by_side(builds, one)


class _Told:
    """Tells what devices have measured of some items by type."""

    def __init__(
        self, report: Report, items: Mapping[str, Sequence[MeasurementItem | Build]], start: float, end: float
    ) -> None:
        self._report, self._start, self._end = report, start, end
        self._done = dict.fromkeys(items, 0)
        self._total = sum(len(some) for some in items.values())

    def counting(self, device_type: str) -> Callable[[int, int], None]:
        def tell(count: int, _: int) -> None:
            self._done[device_type] = count
            self.say(f"measured {sum(self._done.values())} of {self._total} on the devices")

        return tell

    def say(self, words: str) -> None:
        share = sum(self._done.values()) / max(1, self._total)
        self._report(self._start + (self._end - self._start) * share, words)


async def _side_by_side(
    types: Iterable[str], measured: Callable[[str], Awaitable[list[Measurement]]]
) -> dict[str, list[Measurement]]:
    async def one(name: str) -> list[Measurement]:
        return await measured(name)

    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(one(name)) for name in types}
    return {name: task.result() for name, task in tasks.items()}


def median_times(measured: Sequence[Measurement]) -> dict[tuple[str, str], float]:
    """Return ms by subnet and precision; those that failed are left out."""
    return {(one.subnet, one.precision): one.median_ms for one in measured if one.median_ms is not None}


def peaks(measured: Sequence[Measurement]) -> dict[tuple[str, str], int]:
    """Return the most memory, in bytes, that the process took which ran each, by subnet and precision, where the device told."""
    return {
        (one.subnet, one.precision): one.peak_memory_bytes
        for one in measured
        if one.median_ms is not None and one.peak_memory_bytes
    }


def with_memory(rows: Sequence[dict[str, Any]], peaks: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Return rows of subnets with the memory that was measured in place of what was expected."""
    return [{**row, "memory_bytes": peaks.get((row["subnet"], row["precision"]), row["memory_bytes"])} for row in rows]


def why_failed(work: Work, measured: Sequence[Measurement]) -> str:
    """Return what devices said of measurements that failed, and how to go on."""
    errors = sorted({one.error for one in measured if one.error})
    return f"{'; '.join(errors) or 'no answer'}; see the log of its agent, then: milonga runs resume {work.run.name}"
