"""What the clients do when a hub does not answer: servers here say what tests tell them, one call after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from milonga import client
from milonga.client import AsyncClient, Client, Retries
from milonga.client.watching import Watching
from milonga.v1 import (
    devices_pb2,
    devices_pb2_grpc,
    projects_pb2,
    projects_pb2_grpc,
    telemetry_pb2,
    telemetry_pb2_grpc,
)
from milonga_hub.transports.grpc import serve

from tests.certificates import Tls
from tests.devices.world import run

# So short that nobody waits for them, so many that no chance uses them up.
QUICK = Retries(first_pause_seconds=0.01, max_pause_seconds=0.01)
GONE = grpc.StatusCode.UNAVAILABLE
Answer = Any
RUN = "projects/digits/runs/1"
BEGAN = datetime(2026, 1, 2, tzinfo=UTC)


class Script:
    """What each call of a method is answered with, the first call first: messages, what is waited for, or the status that
    ends it.
    """

    def __init__(self, **answers: list[list[Answer]]) -> None:
        self._answers = answers
        self.asked: dict[str, list[Any]] = {name: [] for name in answers}

    async def stream(self, name: str, request: Any, context: Any) -> Any:
        self.asked[name].append(request)
        for answer in self._answers[name].pop(0):
            if isinstance(answer, grpc.StatusCode):
                await context.abort(answer, "as the test says")
            if isinstance(answer, asyncio.Event):
                await answer.wait()
            yield answer

    async def once(self, name: str, request: Any, context: Any) -> Any:
        async for answer in self.stream(name, request, context):
            return answer
        raise AssertionError("the test says nothing")


class Devices(devices_pb2_grpc.DeviceServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def GetDevice(self, request: Any, context: Any) -> Any:
        return await self._script.once("GetDevice", request, context)

    async def DeleteDevice(self, request: Any, context: Any) -> Any:
        return await self._script.once("DeleteDevice", request, context)

    async def CreateJoinToken(self, request: Any, context: Any) -> Any:
        return await self._script.once("CreateJoinToken", request, context)

    async def WatchDevices(self, request: Any, context: Any) -> Any:
        async for answer in self._script.stream("WatchDevices", request, context):
            yield answer


class Runs(projects_pb2_grpc.RunServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def WatchRun(self, request: Any, context: Any) -> Any:
        async for answer in self._script.stream("WatchRun", request, context):
            yield answer


class Telemetry(telemetry_pb2_grpc.TelemetryServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def WatchTelemetry(self, request: Any, context: Any) -> Any:
        async for answer in self._script.stream("WatchTelemetry", request, context):
            yield answer


@contextmanager
def scripted(folder: Path, **answers: list[list[Answer]]) -> Iterator[tuple[Script, dict[str, Any]]]:
    """Serve the script in a thread of its own, and yield it with what a client needs to know."""
    script, tls = Script(**answers), Tls(folder)
    started, found = threading.Event(), list[Any]()

    async def serving() -> None:
        servicers = [Devices(script), Runs(script), Telemetry(script)]  # type: ignore[abstract]
        server, port = await serve(servicers, "127.0.0.1", 0, tls.server(), gate=None)
        ending = asyncio.Event()
        found.extend((port, asyncio.get_running_loop(), ending))
        started.set()
        await ending.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serving()), daemon=True)
    thread.start()
    assert started.wait(60), "the server did not start"
    port, loop, ending = found
    try:
        yield script, {"address": f"127.0.0.1:{port}", "key": "", "retries": QUICK}
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(60)


def _device(name: str, **fields: Any) -> devices_pb2.WatchDevicesResponse:
    return devices_pb2.WatchDevicesResponse(device=devices_pb2.Device(name=name, **fields))


def _run(state: projects_pb2.RunState.ValueType) -> projects_pb2.WatchRunResponse:
    # A figure that is not-a-number is unlike itself.
    stage = projects_pb2.Stage(name="train", metrics={"loss": float("nan")})
    return projects_pb2.WatchRunResponse(run=projects_pb2.Run(name=RUN, state=state, stages=[stage]))


def _window(sequence: int) -> telemetry_pb2.WatchTelemetryResponse:
    window = telemetry_pb2.TelemetryWindow(device="pi-1", boot_id="boot", sequence=sequence)
    window.started_at.FromDatetime(BEGAN + timedelta(hours=sequence))
    return telemetry_pb2.WatchTelemetryResponse(window=window)


def test_what_only_looks_is_asked_again_where_the_hub_is_gone(tmp_path: Path) -> None:
    answer = devices_pb2.GetDeviceResponse(device=devices_pb2.Device(name="pi-1"))
    with scripted(tmp_path, GetDevice=[[GONE], [GONE], [answer]]) as (script, where), Client(**where) as hub:
        assert hub.devices.get_device("pi-1").name == "pi-1"
    assert len(script.asked["GetDevice"]) == 3


def test_it_is_asked_again_over_asyncio(tmp_path: Path) -> None:
    answer = devices_pb2.GetDeviceResponse(device=devices_pb2.Device(name="pi-1"))

    async def story(where: dict[str, Any]) -> str:
        async with AsyncClient(**where) as hub:
            return (await hub.devices.get_device("pi-1")).name

    with scripted(tmp_path, GetDevice=[[GONE], [answer]]) as (script, where):
        assert run(story(where)) == "pi-1"
    assert len(script.asked["GetDevice"]) == 2


def test_it_is_asked_five_times_and_no_more(tmp_path: Path) -> None:
    with scripted(tmp_path, GetDevice=[[GONE]] * 6) as (script, where), Client(**where) as hub:
        with pytest.raises(client.Unreachable):
            hub.devices.get_device("pi-1")
    assert len(script.asked["GetDevice"]) == 5


def test_what_would_do_it_twice_is_asked_once(tmp_path: Path) -> None:
    with scripted(tmp_path, DeleteDevice=[[GONE], []]) as (script, where), Client(**where) as hub:
        with pytest.raises(client.Unreachable):
            hub.devices.delete_device("pi-1")
    assert len(script.asked["DeleteDevice"]) == 1


def test_what_bears_a_request_id_is_asked_again_with_the_same(tmp_path: Path) -> None:
    answer = devices_pb2.CreateJoinTokenResponse(secret="mt_1")
    with scripted(tmp_path, CreateJoinToken=[[GONE], [answer]]) as (script, where), Client(**where) as hub:
        assert hub.devices.create_join_token().secret == "mt_1"
    first, second = script.asked["CreateJoinToken"]
    assert first.request_id and first == second


def test_who_wants_no_retries_is_told_at_once(tmp_path: Path) -> None:
    with scripted(tmp_path, GetDevice=[[GONE]], WatchRun=[[_run(projects_pb2.RUN_STATE_RUNNING), GONE]]) as (_, where):
        with Client(**{**where, "retries": Retries(attempts=1)}) as hub:
            with pytest.raises(client.Unreachable):
                hub.devices.get_device("pi-1")
            with pytest.raises(client.Unreachable):
                list(hub.runs.watch_run(RUN))


def test_a_hub_that_takes_too_long_is_told_of(tmp_path: Path) -> None:
    never = [[asyncio.Event()]]
    with scripted(tmp_path, GetDevice=never) as (_, where), Client(**where) as hub:
        with pytest.raises(client.DeadlineExceeded):
            hub.devices.get_device("pi-1", timeout=0.01)


RUNNING, DONE = projects_pb2.RUN_STATE_RUNNING, projects_pb2.RUN_STATE_SUCCEEDED
BROKEN_RUN: list[list[Answer]] = [[_run(RUNNING), GONE], [GONE], [_run(RUNNING), _run(DONE)]]
BROKEN_DEVICES: list[list[Answer]] = [
    [_device("pi-1"), _device("pi-2"), GONE],
    [_device("pi-1"), _device("pi-2", agent_version="2"), _device("pi-1"), grpc.StatusCode.PERMISSION_DENIED],
]


def test_a_watch_that_breaks_goes_on_and_says_nothing_twice(tmp_path: Path) -> None:
    with scripted(tmp_path, WatchRun=list(BROKEN_RUN)) as (script, where), Client(**where) as hub:
        assert [each.state for each in hub.runs.watch_run(RUN)] == [RUNNING, DONE]
    assert [each.name for each in script.asked["WatchRun"]] == [RUN] * 3


def test_a_watch_goes_on_over_asyncio(tmp_path: Path) -> None:
    async def story(where: dict[str, Any]) -> list[Any]:
        async with AsyncClient(**where) as hub:
            return [each.state async for each in hub.runs.watch_run(RUN)]

    with scripted(tmp_path, WatchRun=list(BROKEN_RUN)) as (_, where):
        assert run(story(where)) == [RUNNING, DONE]


def test_of_many_things_those_are_told_that_changed_meanwhile(tmp_path: Path) -> None:
    with scripted(tmp_path, WatchDevices=list(BROKEN_DEVICES)) as (_, where), Client(**where) as hub:
        watch = hub.devices.watch_devices()
        assert [(each.name, each.agent_version) for each in (next(watch), next(watch), next(watch))] == [
            ("pi-1", ""),
            ("pi-2", ""),
            ("pi-2", "2"),
        ]
        with pytest.raises(client.PermissionDenied):
            next(watch)


def test_windows_of_telemetry_are_asked_for_from_an_hour_before_the_newest(tmp_path: Path) -> None:
    answers = [[_window(3), GONE], [_window(2), _window(3), _window(4), grpc.StatusCode.NOT_FOUND]]
    with scripted(tmp_path, WatchTelemetry=answers) as (script, where), Client(**where) as hub:
        watch = hub.telemetry.watch_telemetry("pi-1")
        assert [next(watch).sequence for _ in range(3)] == [3, 2, 4]
    first, second = script.asked["WatchTelemetry"]
    assert not first.HasField("since")
    assert second.since.ToDatetime(tzinfo=UTC) == BEGAN + timedelta(hours=2)


def test_a_watch_ends_with_the_client(tmp_path: Path) -> None:
    with scripted(tmp_path, WatchDevices=[[_device("pi-1"), asyncio.Event()]]) as (_, where):
        hub = Client(**where)
        watch = hub.devices.watch_devices()
        assert next(watch).name == "pi-1"
        hub.close()
        assert list(watch) == []


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_watch_gives_up_where_nobody_answers_for_too_long() -> None:
    clock = _Clock()
    watching = Watching(projects_pb2.WatchRunRequest(name=RUN), Retries(watch_seconds=100.0), clock)
    watching.open()
    assert watching.pause(GONE) is not None
    clock.now = 99.0
    watching.open()
    assert watching.pause(GONE) is not None
    clock.now = 100.0
    watching.open()
    assert watching.pause(GONE) is None


def test_a_watch_that_lasted_begins_anew_to_count() -> None:
    clock = _Clock()
    watching = Watching(projects_pb2.WatchRunRequest(name=RUN), Retries(watch_seconds=100.0), clock)
    watching.open()
    assert watching.pause(GONE) is not None
    clock.now = 99.0
    watching.open()
    clock.now = 9999.0
    assert watching.pause(GONE) is not None
    assert watching.pause(grpc.StatusCode.INVALID_ARGUMENT) is None


def test_pauses_grow_by_chance_up_to_a_limit() -> None:
    retries = Retries(first_pause_seconds=1.0, max_pause_seconds=4.0)
    for _ in range(20):
        for pause, longest in zip(retries.pauses(), (1.0, 2.0, 4.0, 4.0), strict=False):
            assert 0 <= pause <= longest


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"attempts": 6}, {"first_pause_seconds": 0.0}])
def test_retries_that_grpc_cannot_do_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Retries(**wrong)
