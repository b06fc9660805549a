"""What a fleet costs the hub, its broker included: joining, signs of life, open streams and files, in CPU time of their processes.

MILONGA_BENCH_EFFORT=10 takes ten times as many devices (the default is 1,000); 0.1 looks whether it all works. The load runs
in this process and is not counted.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from milonga.v1 import devices_pb2
from milonga_agent.hub import Hub

from benchmarks._fleet_known import known_hubs
from benchmarks._fleet_load import Member, Stream, Target, enrol, keys, streams
from benchmarks._meter import Meter
from benchmarks.results import Result
from tests.e2e.processes import System

_EFFORT = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
_DEVICES = max(50, round(1000 * _EFFORT))
# Of the hub's heartbeats, for each device that sends them; the plain hub is given fewer, for it takes longer.
_BEATS, _PLAIN_BEATS = 100, 10
_PLAIN_DEVICES = max(50, round(200 * _EFFORT))
# The known hubs close connections of larger fleets now and then; what a device costs them does not fall with their number.
_KNOWN_DEVICES = min(_PLAIN_DEVICES, 200)
_SENDERS = 200
_QUESTIONS = 300
# The goals of the design: ten times the peers' signs of life and enrolments a CPU second; 20,000 streams in a gigabyte; an answer
# in 200 ms with all devices connected.
_GOAL_CPU, _GOAL_KB, _GOAL_MS = 0.1, 50.0, 200.0
_ENROLMENT = "CPU time of the hub for an enrolment, on disk, with a certificate"
_HEARTBEAT = "CPU time of the hub for a heartbeat, on disk"


def run() -> list[Result]:
    """Return all claims about fleets."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measured(Path(folder)))


async def _measured(folder: Path) -> list[Result]:
    plain_enrol_ms, plain_beat_ms = await _plain(folder / "plain")
    known = [costs async for costs in known_hubs(folder, _KNOWN_DEVICES, _PLAIN_BEATS)]
    with System(folder) as system:
        addresses = system.start_hub()
        meter = Meter(system.hub.pid)
        uses = devices_pb2.CreateJoinTokenRequest(uses=_DEVICES + 20)
        target = Target(addresses["grpc"], system.api.devices.CreateJoinToken(uses).secret)
        await enrol(target, "warm", keys(20))
        made, members = keys(_DEVICES), list[Member]()

        async def joining() -> None:
            members.extend(await enrol(target, "bench", made))

        enrol_ms = 1e3 * await meter.of(joining) / _DEVICES
        before = meter.kilobytes()
        async with streams(members) as opened:
            stream_kb = (meter.kilobytes() - before) / _DEVICES
            senders = opened[:_SENDERS]
            cpu = await meter.of(lambda: _beats(system, senders))
            beat_ms = 1e3 * cpu / (len(senders) * _BEATS)
            await _settle(system)
            answer_ms = await _answers(members[0], opened)
    peer = "a plain hub: gRPC, ORM, a commit a call"
    return [
        Result(_ENROLMENT, enrol_ms, "ms", peer, plain_enrol_ms, None),
        Result(_HEARTBEAT, beat_ms, "ms", peer, plain_beat_ms, _GOAL_CPU),
        *(Result(_ENROLMENT, enrol_ms, "ms", costs.name, costs.enrolment_ms, _GOAL_CPU) for costs in known),
        *(Result(_HEARTBEAT, beat_ms, "ms", costs.name, costs.beat_ms, _GOAL_CPU) for costs in known),
        Result(f"memory for an open stream, {_DEVICES} open", stream_kb, "kB", "20,000 streams a GB", _GOAL_KB, 1.0),
        Result(f"p99 of a call while {_DEVICES} devices send heartbeats", answer_ms, "ms", "200 ms", _GOAL_MS, 1.0),
    ]  # fmt: skip


async def _plain(folder: Path) -> tuple[float, float]:
    """Return the CPU milliseconds that a plain hub takes for an enrolment and for a heartbeat."""
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._fleet_peer", str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port, fingerprint = process.stdout.readline().split()
        meter = Meter(process.pid)
        target = Target(f"127.0.0.1:{port}", f"plain.{fingerprint.removeprefix('sha256:')}")
        await enrol(target, "warm", keys(20))
        made, members = keys(_PLAIN_DEVICES), list[Member]()

        async def joining() -> None:
            members.extend(await enrol(target, "bench", made))

        enrol_seconds = await meter.of(joining)
        async with streams(members, address=target.hub) as opened:

            async def beating() -> None:
                await asyncio.gather(*(stream.beat(_PLAIN_BEATS, "end") for stream in opened))
                await asyncio.gather(*(stream.call.read() for stream in opened))

            beat_seconds = await meter.of(beating)
        return 1e3 * enrol_seconds / _PLAIN_DEVICES, 1e3 * beat_seconds / (_PLAIN_DEVICES * _PLAIN_BEATS)
    finally:
        process.kill()
        process.wait()


async def _beats(system: System, senders: list[Stream]) -> None:
    """Send heartbeats at full speed; done when the hub has written that of every device that came last."""
    await asyncio.gather(*(stream.beat(_BEATS, "end") for stream in senders))
    names = {stream.member.identity.device for stream in senders}
    while True:
        page = await asyncio.to_thread(_page, system)
        if names <= {device.name for device in page if device.status_message == "end"}:
            return
        await asyncio.sleep(0.5)


def _page(system: System) -> list[devices_pb2.Device]:
    # The senders' names come first.
    request = devices_pb2.ListDevicesRequest(page_size=_SENDERS + 20)
    return list(system.api.devices.ListDevices(request, timeout=60).devices)


async def _settle(system: System) -> None:
    """Wait until the hub has nothing left to do of the load before."""
    process = psutil.Process(system.hub.pid)
    process.cpu_percent()
    while True:
        await asyncio.sleep(1.0)
        if process.cpu_percent() < 50.0:
            return


async def _answers(member: Member, opened: list[Stream]) -> float:
    """Return the 99th percentile of the time to an answer, in milliseconds, while all devices send heartbeats."""

    async def live(stream: Stream, number: int) -> None:
        await asyncio.sleep(10.0 * number / len(opened))
        while True:
            await stream.beat(1)
            await asyncio.sleep(10.0)  # The hub's default.

    living = [asyncio.create_task(live(stream, number)) for number, stream in enumerate(opened)]
    hub = Hub(member.identity, member.credentials)
    times = []
    try:
        for _ in range(_QUESTIONS):
            began = time.perf_counter()
            await hub.metadata("timestamp.json")
            times.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.02)
    finally:
        for task in living:
            task.cancel()
        await asyncio.gather(*living, return_exceptions=True)
        await hub.close()
    return statistics.quantiles(times, n=100)[98]
