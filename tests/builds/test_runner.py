"""Builds that people ask for outside runs: made by the real job, measured on a board, kept through restarts."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.builds.models import Build, BuildState, BuildTuning, TuningSite
from milonga_hub.builds.packing import pack
from milonga_hub.builds.rules import FREE, Allowed
from milonga_hub.builds.runner import BuildRunner
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.errors import FailedPrecondition, OutOfRoom
from milonga_hub.jobs import Jobs
from milonga_hub.runs.models import StageState

from tests.builds.test_job import _spec
from tests.ready_jobs import READY
from tests.runs.boards import Board, connected
from tests.web.filled import Services

VERSION = "models/digits/versions/1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("order")


@pytest.fixture
def hub(tmp_path: Path, folder: Path) -> Services:
    """Return a hub whose version 1 has a subnet for the device type pi."""
    hub = Services(tmp_path)
    hub.builds.orders.keep(VERSION, "pi", _spec(folder), Allowed(latency_ms=5.0), None)
    return hub


def _make(
    hub: Services, target: str, board: Board | None = None, seconds: float = 1200, jobs: Jobs | None = None
) -> Build:
    """Ask for a build and let the runner work until it has ended; the board is connected meanwhile, if any."""

    async def work() -> Build:
        with hub.events.listen("builds/") as news:
            runner = BuildRunner(hub.builds, hub.devices, hub.folder / "builds", jobs or Jobs(READY))
            build = hub.builds.start(VERSION, "pi", target)
            task = asyncio.create_task(runner.run())
            try:
                async with asyncio.timeout(seconds):
                    while hub.builds.get(build.name).in_progress:
                        await news.next()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                hub.builds.on_queued = lambda: None  # The loop that it wakes ends here.
        return hub.builds.get(build.name)

    async def with_board() -> Build:
        async with connected(hub.devices, {board.name: board} if board else {}):
            return await work()

    return asyncio.run(with_board())


def test_a_target_is_built_proved_measured_and_explained(hub: Services, tmp_path: Path) -> None:
    build = _make(hub, "onnxruntime/fp32", Board("pi", lambda item, count: 2.0))
    assert (build.state, build.measured_ms, build.measured_on) == (BuildState.VERIFIED, 2.0, "pi")
    assert [(stage.name, stage.state) for stage in build.stages] == [
        ("build", StageState.SUCCEEDED),
        ("measure", StageState.SUCCEEDED),
    ]
    assert "milonga build choose" in build.stages[1].message and not build.chosen
    assert build.decision == "the fastest that passes its gates"
    assert {gate.name: gate.passed for gate in build.gates} == dict.fromkeys(
        ("parity", "accuracy", "disagreement", "latency", "size"), True
    )
    log = hub.builds.log(build.name)
    assert "building onnxruntime/fp32" in log and "VERIFIED" in log
    pack(hub.builds, build.name, tmp_path / "b.zip")
    with zipfile.ZipFile(io.BytesIO((tmp_path / "b.zip").read_bytes())) as archive:
        assert {"manifest.json", "model.onnx", "example.py"} <= set(archive.namelist())


def test_without_a_device_it_is_built_and_says_why_it_was_not_measured(hub: Services) -> None:
    build = _make(hub, "reference/fp32")
    assert build.state is BuildState.VERIFIED and build.measured_ms is None
    assert [stage.state for stage in build.stages] == [StageState.SUCCEEDED, StageState.SKIPPED]
    assert build.decision == "not used: the device did not run it: no device of type pi is connected"


def test_what_the_full_disk_of_the_hub_has_no_room_for_is_kept_once_it_has(
    hub: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = hub.blobs.put_file
    waited: list[Path] = []

    def full(path: Path) -> str:
        if not waited:
            raise OutOfRoom("the hub's disk is full; free space under /var/lib/milonga")
        return put(path)

    async def made_room(workdir: Path) -> None:
        (build,) = hub.builds.queued()
        assert build.stages[0].message.endswith("free space under /var/lib/milonga; it goes on by itself then")
        waited.append(workdir)

    monkeypatch.setattr(hub.blobs, "put_file", full)
    build = _make(hub, "onnxruntime/fp32", jobs=Jobs(READY, made_room))
    assert build.state is BuildState.VERIFIED and len(waited) == 1


def test_a_network_that_is_gone_ends_the_build_and_not_the_runner(hub: Services, tmp_path: Path) -> None:
    order = hub.builds.orders.get(VERSION, "pi")
    hub.builds.orders.keep(VERSION, "pi", {**order.spec, "onnx": str(tmp_path / "gone.onnx")}, FREE, None)
    build = _make(hub, "onnxruntime/fp32")
    assert build.state is BuildState.REJECTED and "gone.onnx is gone" in build.reason
    assert build.stages[0].state is StageState.FAILED and "milonga runs start" in build.stages[0].message


def test_what_devices_build_for_themselves_falls_back_to_what_is_proved_and_is_proved_by_a_device(
    hub: Services,
) -> None:
    lonely = _make(hub, "tensorrt/fp16")
    assert lonely.state is BuildState.REJECTED and "fall back" in lonely.reason
    _make(hub, "onnxruntime/fp32", Board("pi", lambda item, count: 5.0))
    build = _make(hub, "tensorrt/fp16", board := Board("pi", lambda item, count: 2.0))
    assert (build.state, build.measured_ms) == (BuildState.VERIFIED, 2.0)
    assert "pi" in build.reason and "accuracy is not measured on devices" in build.reason
    (fallback,) = hub.builds.manifest(build.bundle)["fallbacks"]
    assert (fallback["engine"], fallback["precision"]) == ("onnxruntime", "fp32")
    assert {(one.engine, one.building_seconds > 60) for one in board.asked} == {
        ("tensorrt", True),
        ("onnxruntime", False),
    }


def _busy_at_first(item: MeasurementItem, count: int) -> float:
    """Return what two models take on a board where other work falls on one of them in the first round."""
    return {"onnxruntime": 3.8 if count < 2 else 2.0, "reference": 3.0}[item.engine]


def test_a_target_is_measured_in_turn_with_those_that_were_there_and_all_are_told_by_one_comparison(
    hub: Services,
) -> None:
    before = _make(hub, "onnxruntime/fp32", Board("pi", lambda item, count: 40.0))
    build = _make(hub, "reference/fp32", board := Board("pi", _busy_at_first))
    fastest = hub.builds.get(before.name)
    assert before.measured_ms == 40.0 and len(board.asked) >= 2 * 3
    assert (fastest.measured_ms, fastest.decision) == (2.0, "the fastest that passes its gates")
    assert (build.measured_ms, build.decision) == (3.0, "50.0% slower than onnxruntime/fp32")
    assert build.stages[1].message == "3 ms on pi" and not fastest.chosen


def test_a_figure_stays_where_the_device_fails_as_it_is_measured_anew(hub: Services) -> None:
    before = _make(hub, "onnxruntime/fp32", Board("pi", lambda item, count: 2.0, lambda item: 30_000_000))
    fails = Board("pi", lambda item, count: 3.0 if item.engine == "reference" else None)
    build = _make(hub, "reference/fp32", fails)
    kept = hub.builds.get(before.name)
    assert (kept.measured_ms, kept.measured_on, kept.measured_memory_bytes) == (2.0, "pi", 30_000_000)
    assert (kept.measuring_error, kept.decision) == ("no memory", "the fastest that passes its gates")
    assert build.decision == "50.0% slower than onnxruntime/fp32"


def test_what_is_measured_in_turn_is_told_while_it_is(hub: Services) -> None:
    _make(hub, "onnxruntime/fp32")
    said: list[str] = []
    change = hub.builds.change_stage

    def heard(name: str, stage: str, **values: Any) -> Build:
        said.extend([values["message"]] if stage == "measure" and "message" in values else [])
        return change(name, stage, **values)

    hub.builds.change_stage = heard  # type: ignore[method-assign]
    _make(hub, "reference/fp32", Board("pi", _busy_at_first))
    assert said[:3] == [f"measured {done} of 2 on the devices" for done in range(3)]
    assert "pi: measures reference/fp32, onnxruntime/fp32 in turn, round 2" in said


def test_a_cancelled_build_ends_its_job_and_the_next_is_made(hub: Services) -> None:
    async def work() -> None:
        runner = BuildRunner(hub.builds, hub.devices, hub.folder / "builds", Jobs())
        first, second = (hub.builds.start(VERSION, "pi", target) for target in ("onnxruntime/fp32", "reference/fp32"))
        with hub.events.listen("builds/") as news:
            task = asyncio.create_task(runner.run())
            try:
                while not hub.builds.get(first.name).stages[0].message:
                    await news.next()
                assert hub.builds.cancel(first.name).reason == "cancelled"
                while hub.builds.get(second.name).in_progress:
                    await news.next()
                # A build that waits is taken off the list.
                waiting = hub.builds.start(VERSION, "pi", "onnxruntime/int8")
                assert hub.builds.cancel(waiting.name).state is BuildState.REJECTED
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        first, second = hub.builds.get(first.name), hub.builds.get(second.name)
        assert (first.state, first.in_progress, first.bundle) == (BuildState.REJECTED, False, "")
        assert first.stages[0].state is StageState.CANCELLED and first.stages[0].message == "cancelled"
        assert second.state is BuildState.VERIFIED
        with pytest.raises(FailedPrecondition, match="is not being built outside a run"):
            hub.builds.cancel(second.name)

    asyncio.run(work())


def test_asking_twice_is_asking_once(hub: Services) -> None:
    first = hub.builds.start(VERSION, "pi", "onnxruntime/fp32")
    assert hub.builds.start(VERSION, "pi", "onnxruntime/fp32") == first
    assert [build.name for build in hub.builds.queued()] == [first.name]
    hub.builds.start(VERSION, "pi", "tvm/fp32")
    with pytest.raises(FailedPrecondition, match=r"is being built already, untuned; .*milonga build cancel"):
        hub.builds.start(VERSION, "pi", "tvm/fp32", BuildTuning(site=TuningSite.HUB, minutes=5.0))
