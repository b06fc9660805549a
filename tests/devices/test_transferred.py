"""What came to devices is added up as they tell it, once, and as far as they can be believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from milonga_hub.devices.models import StepLog
from milonga_hub.devices.transferred import believed
from milonga_hub.devices.values import DeviceTransfers, Download

from tests.devices.world import Agent, hub, run


def _fetched(generation: int = 1) -> StepLog:
    return StepLog(device="pi-1", generation=generation, step="DOWNLOAD", state="SUCCEEDED")


def test_a_download_counts_once_for_who_fetched_and_for_who_sent(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as first, Agent(world, "pi-2") as second:
            await first.enrol()
            await second.enrol()
            devices = world.devices
            download = Download("digits", 100, 60, {"pi-2": 30, "nobody": 10, "pi-1": 5})
            # After a lost connection a report comes again.
            for generation in (1, 1, 2):
                await devices.connections.report(_fetched(generation), download)
            assert devices.transfers("pi-1") == DeviceTransfers(whole_bytes=200, moved_bytes=120, neighbour_bytes=90)
            assert devices.transfers("pi-2") == DeviceTransfers(served_bytes=60)
            assert devices.transfers_of_project("digits").moved_bytes == 120
            assert devices.transfers_of_project("signs").whole_bytes == 0
            devices.delete("pi-1")
            assert devices.transfers_of_project("digits").whole_bytes == 0

    run(story())


@pytest.mark.parametrize(
    ("moved", "neighbours", "is_believed"),
    [
        (60, {"a": 20}, Download("p", 100, 60, {"a": 20})),
        (-1, {"a": -5}, Download("p", 100, 0, {})),
        (1 << 62, {"a": 1 << 62, "b": 7}, Download("p", 100, 1000, {"a": 100})),
        (0, {"a": 40, "b": 40, "c": 40}, Download("p", 100, 100, {"a": 40, "b": 40, "c": 20})),
    ],
)
def test_what_cannot_be_is_not_believed(moved: int, neighbours: dict[str, int], is_believed: Download) -> None:
    assert believed("p", 100, moved, neighbours) == is_believed
