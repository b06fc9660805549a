"""All devices of a simulation: they join one after the other, suffer what the script says, and are counted."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from milonga.pinning import NotPinned, authority_of, pin_of

from milonga_agent.errors import AgentError, HubUnreachable, Refused
from milonga_agent.hub import Enroller
from milonga_agent.simulation.bundles import Bundles
from milonga_agent.simulation.device import Device, Surroundings
from milonga_agent.simulation.faults import begun, condition, is_on
from milonga_agent.simulation.spec import FaultKind, Simulation
from milonga_agent.simulation.tally import Tally

# How exactly faults keep to their times.
_TICK_SECONDS = 0.1
# Well within the time in which a connection counts as alive.
_ATTENTION_SECONDS = 5.0
# Handshakes that wait for the network at a time.
_HANDSHAKES = 16
# Beside the devices' own: files, the event loop, and the machine that enrols.
_SPARE_FILES = 200
_CANCEL_AGAIN_SECONDS = 2.0


class Fleet:
    """`await fleet.run()` ends when the simulation's time is over; cancelled, it takes all devices off line first."""

    def __init__(self, simulation: Simulation, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells the time by which devices join and faults come, in seconds from anywhere."""
        self.simulation = simulation
        self.tally = Tally(simulation.devices)
        self.devices: list[Device] = []
        self._clock = clock
        self._began = clock()

    async def run(self) -> None:
        """Raises Refused or HubUnreachable where there is no such hub, AgentError where this machine is too small."""
        allow_files(self.simulation)
        authority = await _authority(self.simulation)
        executor = ThreadPoolExecutor(_HANDSHAKES, thread_name_prefix="handshake")
        enroller = Enroller(self.simulation.hub, authority)
        with tempfile.TemporaryDirectory(prefix="milonga-simulation-") as folder:
            bundles = Bundles(Path(folder))
            around = Surroundings(
                self.simulation, self.tally, authority.encode("ascii"), enroller, bundles, executor, time.time_ns()
            )
            tasks = [asyncio.create_task(self._watch_faults()), asyncio.create_task(self._attend())]
            try:
                await self._live(around, tasks)
            finally:
                await _ended(tasks)
                await enroller.close()
                executor.shutdown(wait=True, cancel_futures=True)

    async def _live(self, around: Surroundings, tasks: list[asyncio.Task[None]]) -> None:
        """Let devices join, and wait for the end; a fault of the simulation itself is raised."""
        self._began, self.tally.began = self._clock(), time.monotonic()
        joined = 0
        while True:
            seconds = self._clock() - self._began
            due = min(self.simulation.devices, 1 + int(seconds * self.simulation.joins_per_second))
            for index in range(joined, due):
                device = Device(around, index)
                self._suffer(device, seconds)
                self.devices.append(device)
                tasks.append(asyncio.create_task(device.run()))
            joined = due
            for task in tasks:
                if task.done():
                    task.result()
            left = self._left(seconds)
            if left <= 0.0:
                return
            if joined < self.simulation.devices:
                await asyncio.sleep(min(left, max(0.01, 1.0 / self.simulation.joins_per_second)))
            else:
                await asyncio.wait(tasks, timeout=min(left, 3600.0), return_when=asyncio.FIRST_EXCEPTION)

    def _left(self, seconds: float) -> float:
        duration = self.simulation.duration_seconds
        return 3600.0 if duration is None else duration - seconds

    # what goes wrong

    async def _watch_faults(self) -> None:
        """Tell devices when a fault of theirs begins or ends."""
        faults = self.simulation.faults
        on = [False] * len(faults)
        rounds = [0] * len(faults)
        before = self._clock()
        while True:
            now = self._clock()
            seconds = now - self._began
            for number, fault in enumerate(faults):
                count, rounds[number] = begun(fault, seconds) - rounds[number], begun(fault, seconds)
                if fault.kind is FaultKind.RECONNECT:
                    if count > 0:
                        self._disconnect(number)
                elif on[number] != is_on(fault, seconds):
                    on[number] = not on[number]
                    for device in self.devices:
                        if self.simulation.suffers(device.index, number):
                            self._suffer(device, seconds)
            for device in self.devices:
                rate = device.condition.flood_per_second
                if rate:
                    # Whole messages, at this rate in the long run.
                    device.flood(int(rate * (now - self._began)) - int(rate * (before - self._began)))
            before = now
            await asyncio.sleep(_TICK_SECONDS)

    def _suffer(self, device: Device, seconds: float) -> None:
        faults = self.simulation.faults
        device.suffer(
            condition(
                fault
                for number, fault in enumerate(faults)
                if is_on(fault, seconds) and self.simulation.suffers(device.index, number)
            )
        )

    def _disconnect(self, fault: int) -> None:
        for device in self.devices:
            if self.simulation.suffers(device.index, fault):
                device.disconnect()

    async def _attend(self) -> None:
        while True:
            began = time.monotonic()
            for number, device in enumerate(list(self.devices)):
                device.attend()
                if number % 100 == 99:
                    await asyncio.sleep(0)  # Streams are served in between.
            await asyncio.sleep(max(0.0, min(_ATTENTION_SECONDS, began + _ATTENTION_SECONDS - time.monotonic())))


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks until all have ended: before Python 3.12 asyncio.wait_for may swallow a cancellation (bpo-37658)."""
    left: set[asyncio.Task[None]] = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_SECONDS)


def allow_files(simulation: Simulation) -> None:
    """Let this process have a connection or two for each device. Raises AgentError where the system does not."""
    needed = round(simulation.devices * (1.0 + simulation.telemetry_share)) + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY,) and needed > hard:
        most = int((hard - _SPARE_FILES) / (1.0 + simulation.telemetry_share))
        raise AgentError(
            f"{simulation.devices} devices need {needed} open connections, and this system allows {hard} to a process: raise"
            f" that (ulimit -Hn, or LimitNOFILE= of a service), simulate {most} devices, or let fewer of them keep a"
            " connection for telemetry (telemetry_share)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _authority(simulation: Simulation) -> str:
    """Return the authority (PEM) of the hub that the token is for."""
    host, _, port = simulation.hub.rpartition(":")
    wanted = pin_of(simulation.join_token)
    if not wanted:
        raise Refused("the join token lacks the hub's fingerprint, which is behind its dot; copy the token whole")
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(None, authority_of, host.strip("[]"), int(port), wanted)
    except NotPinned as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise HubUnreachable(f"no hub answers at {simulation.hub}: {error.strerror or error}") from error
