"""How long a new assignment takes to reach a whole fleet: from asking for a rollout of one wave to the last device's stream.

MILONGA_BENCH_EFFORT=10 takes ten times as many devices (the default is 1,000). Devices here only listen.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks._fleet_load import Stream, Target, enrol, keys, streams
from benchmarks.results import Result

_EFFORT = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
_DEVICES = max(50, round(1000 * _EFFORT))
# The first warms up.
_WAVES = 3
# The goal of the design, of 10,000 devices.
_GOAL_SECONDS = 1.0


def run() -> list[Result]:
    """Return what there is to claim of assignments."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, cpu_seconds = asyncio.run(_measured(Path(folder)))
    told = f"an assignment to {_DEVICES} open streams, until the last device has it"
    return [
        Result(told, seconds, "s", f"{_GOAL_SECONDS:g} s for 10,000", _GOAL_SECONDS * _DEVICES / 10_000, None),
        Result("CPU time of the hub for each of them", 1e3 * cpu_seconds / _DEVICES, "ms", "0.1 ms", 0.1, None),
    ]


async def _measured(folder: Path) -> tuple[float, float]:
    """Return the seconds, and CPU seconds of the hub, that the best of a few waves took."""
    command = [sys.executable, "-m", "benchmarks._fleet_wave", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None and process.stdout is not None
        address, token = process.stdout.readline().split()
        members = await enrol(Target(address, token), "bench", keys(_DEVICES))
        hub = psutil.Process(process.pid)
        taken = []
        async with streams(members) as opened:
            for _ in range(_WAVES):
                await _settle(hub)
                before = sum(hub.cpu_times()[:2])
                process.stdin.write("\n")
                process.stdin.flush()
                heard = await asyncio.gather(*(_assigned(stream) for stream in opened))
                spent = sum(hub.cpu_times()[:2]) - before
                asked_at = float(await asyncio.to_thread(process.stdout.readline))
                taken.append((max(heard) - asked_at, spent))
                print(f"wave {len(taken)} of {_WAVES}: {taken[-1][0]:.2f} s", file=sys.stderr)
        return min(taken[1:])
    finally:
        process.kill()
        process.wait()


async def _assigned(stream: Stream) -> float:
    """Return when the next assignment came."""
    while True:
        message = await stream.call.read()
        if message.HasField("assignment"):
            return time.time()


async def _settle(hub: psutil.Process) -> None:
    """Wait until the hub has nothing left to do of what was before."""
    hub.cpu_percent()
    while True:
        await asyncio.sleep(1.0)
        if hub.cpu_percent() < 30.0:
            return
