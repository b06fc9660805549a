"""Measurements over real streams, interrupted and resumed."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from milonga.v1 import devices_pb2
from milonga_hub.cli import main
from milonga_hub.devices.models import Conditions, Measurement
from milonga_hub.devices.service import MeasurementItem, MeasuringPolicy

from tests.devices.world import Agent, World, hub, people, run

RUN = "projects/digits/runs/1"


def _items(world: World, *names: str) -> list[MeasurementItem]:
    return [MeasurementItem(name, "onnxruntime", "fp32", [world.file(name.encode())]) for name in names]


def _measure(
    world: World,
    items: Sequence[MeasurementItem],
    type_: str = "board-1",
    progress: list[tuple[int, int]] | None = None,
) -> asyncio.Task[list[Measurement]]:
    heard = progress if progress is not None else []
    return asyncio.create_task(
        world.devices.measure(type_, items, RUN, "profile", lambda done, total: heard.append((done, total)))
    )


def test_every_item_is_measured_and_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            progress: list[tuple[int, int]] = []
            items = _items(world, "s1", "s2", "s3")
            measuring = _measure(world, items, progress=progress)
            names = []
            for _ in items:
                request = await agent.hear("measurement_request")
                assert (request.engine, request.precision, request.batch_size) == ("onnxruntime", "fp32", 1)
                assert 0 < request.min_repeats <= request.max_repeats
                (content,) = await agent.fetch(request.files[0].digest)
                names.append(content.decode())
                await agent.answer(request, median_ms=float(content[1:]))
            results = await measuring
            assert sorted(names) == ["s1", "s2", "s3"]
            assert [(each.subnet, each.median_ms, each.device) for each in results] == [
                ("s1", 1.0, "pi-1"),
                ("s2", 2.0, "pi-1"),
                ("s3", 3.0, "pi-1"),
            ]
            assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
            kept, _ = world.devices.measurements("board-1", RUN)
            assert sorted(each.subnet for each in kept) == ["s1", "s2", "s3"]
            assert not world.devices.may_fetch("pi-1", items[0].files[0].digest)  # Only while it is measured.

    run(story())


def test_how_a_measurement_was_taken_is_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: dict[str, Any] = {
        "peak_memory_bytes": 60_000_000,
        "median_half_width_ms": 0.125,
        "drift_ratio": 1.25,
        "settled": False,
        "throttled": True,
        "drifting": True,
        "attempts": 2,
        "cooled_seconds": 12.5,
        "pinned_cpus": [4, 5],
        "temperature_begin_celsius": 51.5,
        "temperature_max_celsius": 81.0,
        "temperature_celsius": 80.5,
        "frequency_begin_mhz": 2400.0,
        "frequency_min_mhz": 1200.0,
        "frequency_end_mhz": 1500.0,
    }
    assert set(told) == set(Conditions.model_fields)

    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, people(world) as stub:
            await agent.join()
            measuring = _measure(world, _items(world, "s1"))
            await agent.answer(await agent.hear("measurement_request"), **told)
            (result,) = await measuring
            assert {name: getattr(result, name) for name in told} == told
            (kept,), _ = world.devices.measurements("board-1", RUN)
            assert kept.pinned_cpus == [4, 5]
            (listed,) = (await stub.ListMeasurements(devices_pb2.ListMeasurementsRequest(run=RUN))).measurements
            assert {name: getattr(listed, name) for name in told} == told
            assert "throttled, drifting, not settled" in await _said(world, capsys, "measurements", "list")
            (row,) = json.loads(await _said(world, capsys, "measurements", "list", "--json"))["measurements"]
            assert {name: row[name] for name in ("settled", "attempts", "pinned_cpus", "frequency_min_mhz")} == {
                "settled": False,
                "attempts": 2,
                "pinned_cpus": [4, 5],
                "frequency_min_mhz": 1200.0,
            }

    run(story())


@pytest.mark.parametrize("settled", [{}, {"settled": True}])
def test_a_measurement_without_fault_or_by_an_older_agent_has_no_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settled: dict[str, Any]
) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1"))
            await agent.answer(await agent.hear("measurement_request"), **settled)
            (result,) = await measuring
            assert result.settled is settled.get("settled")
            said = await _said(world, capsys, "measurements", "list")
            assert not any(word in said for word in ("throttled", "drifting", "settled"))

    run(story())


async def _said(world: World, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what the command line prints about this hub."""
    capsys.readouterr()
    assert await asyncio.to_thread(main, ["--hub", f"127.0.0.1:{world.port}", *arguments]) == 0
    return capsys.readouterr().out


def test_a_batch_cut_off_half_way_goes_on_when_the_device_returns(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1", "s2", "s3"))
            first = await agent.hear("measurement_request")
            await agent.answer(first)
            second = await agent.hear("measurement_request")
            agent.stream.cancel()
            await world.until_device("pi-1", lambda device: device.state == "OFFLINE")
            await agent.connect()
            rest = []
            for _ in range(2):
                rest.append(await agent.hear("measurement_request"))
                await agent.answer(rest[-1])
            assert second.id in {request.id for request in rest}
            assert first.id not in {request.id for request in rest}
            assert all(each.median_ms == 1.0 for each in await measuring)

    run(story())


def test_work_of_a_lost_device_goes_to_another_of_its_type(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as first, Agent(world, "pi-2") as second:
            await first.join()
            measuring = _measure(world, _items(world, "s1"))
            request = await first.hear("measurement_request")
            await second.join()
            first.stream.cancel()
            again = await second.hear("measurement_request")
            assert again.id == request.id
            await second.answer(again)
            assert (await measuring)[0].device == "pi-2"

    run(story())


def test_a_new_connection_of_the_same_device_is_asked_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1"))
            request = await agent.hear("measurement_request")
            older = agent.stream  # gRPC cancels calls that nobody holds.
            await agent.connect()
            assert await older.code() is grpc.StatusCode.FAILED_PRECONDITION
            again = await agent.hear("measurement_request")
            assert again.id == request.id
            await agent.answer(again)
            assert (await measuring)[0].median_ms == 1.0

    run(story())


def test_measuring_waits_for_a_device_of_the_type(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent, Agent(world, "x", board="Other") as other:
            await other.join()
            measuring = _measure(world, _items(world, "s1"))
            await agent.join()
            await agent.answer(await agent.hear("measurement_request"))
            assert (await measuring)[0].device == "pi-1"

    run(story())


def test_a_restarted_hub_measures_only_what_is_missing(tmp_path: Path) -> None:
    async def before() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1", "s2"))
            await agent.answer(await agent.hear("measurement_request"), median_ms=7.0)
            await agent.hear("measurement_request")
            measuring.cancel()

    async def after() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            progress: list[tuple[int, int]] = []
            measuring = _measure(world, _items(world, "s1", "s2"), progress=progress)
            await agent.answer(await agent.hear("measurement_request"), median_ms=9.0)
            assert {each.median_ms for each in await measuring} == {7.0, 9.0}
            assert progress == [(1, 2), (2, 2)]
            await _measure(world, _items(world, "s1", "s2"))  # All there: no device is asked.

    run(before())
    run(after())


def test_an_item_that_fails_is_returned_with_its_error_and_tried_anew_next_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1"))
            await agent.answer(await agent.hear("measurement_request"), error="no such engine")
            (failed,) = await measuring
            assert (failed.error, failed.median_ms) == ("no such engine", None)
            async with people(world) as stub:
                listed = (await stub.ListMeasurements(devices_pb2.ListMeasurementsRequest(run=RUN))).measurements
            assert [each.error for each in listed] == ["no such engine"]
            assert math.isnan(listed[0].median_ms)
            measuring = _measure(world, _items(world, "s1"))
            await agent.answer(await agent.hear("measurement_request"))
            assert (await measuring)[0].median_ms == 1.0
            assert [each.error for each in world.devices.measurements()[0]] == [""]

    run(story())


def test_a_device_measures_no_longer_than_the_hubs_setting_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILONGA_MEASURING_SECONDS", "2.5")

    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1"))
            request = await agent.hear("measurement_request")
            assert request.budget_seconds == 2.5
            await agent.answer(request)
            await measuring

    run(story())


def test_a_device_that_never_answers_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    async def story() -> None:
        policy = MeasuringPolicy(budget_seconds=0.05, slack_seconds=0.05)
        async with hub(tmp_path, policy) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1", "s2"))
            asked = {(await agent.hear("measurement_request")).id for _ in range(2)}
            results = await measuring
            assert {each.id for each in results} == asked
            assert all("gave no result within 0.1 s" in each.error for each in results)

    run(story())


def test_a_model_that_takes_its_device_down_again_and_again_is_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            measuring = _measure(world, _items(world, "s1"))
            for _ in range(MeasuringPolicy().max_losses):
                await agent.hear("measurement_request")
                await agent.connect()
            (result,) = await measuring
            assert "disconnected while measuring" in result.error

    run(story())


def test_devices_of_one_machine_measure_one_after_the_other(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            hub(tmp_path) as world,
            Agent(world, "a", board="A", machine_id="shared") as first,
            Agent(world, "b", board="B", machine_id="shared") as second,
        ):
            await first.join()
            await second.join()
            running = most = 0

            async def work(agent: Agent, count: int) -> None:
                nonlocal running, most
                for _ in range(count):
                    request = await agent.hear("measurement_request")
                    running += 1
                    most = max(most, running)
                    # A round trip through the hub, in which it could send the other device its request.
                    await agent.fetch(request.files[0].digest)
                    running -= 1
                    await agent.answer(request)

            one = _measure(world, _items(world, "s1", "s2", "s3"), "a")
            two = _measure(world, _items(world, "s1", "s2", "s3"), "b")
            await asyncio.gather(work(first, 3), work(second, 3))
            assert len(await one) == len(await two) == 3
            assert most == 1

    run(story())


def test_devices_of_different_machines_measure_side_by_side(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as first, Agent(world, "pi-2") as second:
            await first.join()
            await second.join()
            measuring = _measure(world, _items(world, "s1", "s2"))
            requests = [await agent.hear("measurement_request") for agent in (first, second)]
            for agent, request in zip((first, second), requests, strict=True):
                await agent.answer(request)
            assert {each.device for each in await measuring} == {"pi-1", "pi-2"}

    run(story())


def test_a_cancelled_batch_frees_the_machine(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as agent:
            await agent.join()
            given_up = _measure(world, _items(world, "s1"))
            await agent.hear("measurement_request")
            given_up.cancel()
            await asyncio.wait([given_up])
            measuring = _measure(world, _items(world, "s2"))
            await agent.answer(await agent.hear("measurement_request"))
            assert (await measuring)[0].subnet == "s2"

    run(story())
