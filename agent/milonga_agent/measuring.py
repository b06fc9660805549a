"""Measure what the hub asks for, one model at a time, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

from milonga.v1 import agent_pb2, common_pb2

from milonga_agent.bundles import Bundles
from milonga_agent.errors import AgentError, HubUnreachable
from milonga_agent.files import write_atomically
from milonga_agent.limits import Limits
from milonga_agent.outbox import Outbox
from milonga_agent.plan import WantedFile, Wish
from milonga_agent.processes import ended_within
from milonga_agent.sensors import temperature_celsius

# After this, a measurement is stopped whatever it says: loading, cooling down and a slow model.
_SLACK_SECONDS = 100.0
# What is measured in turn comes again within minutes, unless it is known by then which is the fastest.
_KEPT_SECONDS = 600.0
# A device that has not measured for so long is at rest again.
_RESTED_SECONDS = 60.0


class Rest:
    """Knows how warm the device is when it does not measure: the coolest of a row of measurements."""

    def __init__(self) -> None:
        self._celsius: float | None = None
        self._ended_at = -math.inf

    def begin(self, now: float, celsius: float | None) -> float | None:
        """Return the temperature to cool down to before a measurement that begins now."""
        known = [each for each in (self._celsius, celsius) if each is not None]
        rested = now - self._ended_at > _RESTED_SECONDS
        self._celsius = celsius if rested else min(known, default=None)
        return self._celsius

    def end(self, now: float) -> None:
        self._ended_at = now


class Measuring:
    """Measures what was asked for, in order. `await measuring.run()` works until it is cancelled."""

    def __init__(self, folder: Path, limits: Limits, bundles: Bundles, outbox: Outbox) -> None:
        self._spec = folder / "measuring.json"
        self._limits = limits
        self._bundles = bundles
        self._outbox = outbox
        self._asked: asyncio.Queue[agent_pb2.MeasurementRequest] = asyncio.Queue()
        # Whose holder may measure.
        self.turn = asyncio.Lock()
        self._rest = Rest()

    def ask(self, request: agent_pb2.MeasurementRequest) -> None:
        self._asked.put_nowait(request)

    async def run(self) -> None:
        while True:
            request = await self._next()
            with contextlib.suppress(HubUnreachable):  # The hub asks again when it is back.
                self._outbox.send(measurement=await self.measure(request))

    async def _next(self) -> agent_pb2.MeasurementRequest:
        """Return the next request; what is kept for more rounds goes where none comes for long."""
        try:
            return await asyncio.wait_for(self._asked.get(), _KEPT_SECONDS if self._bundles.compared else None)
        except asyncio.TimeoutError:
            self._bundles.compare("")
            self._bundles.collect()
            return await self._asked.get()

    async def measure(self, request: agent_pb2.MeasurementRequest) -> agent_pb2.MeasurementResult:
        """Return what was measured, once no other measurement is under way. Raises HubUnreachable."""
        async with self.turn:
            try:
                return await self._measured(request)
            except HubUnreachable:
                raise
            except (AgentError, OSError) as error:
                return agent_pb2.MeasurementResult(id=request.id, error=str(error))

    async def _measured(self, request: agent_pb2.MeasurementRequest) -> agent_pb2.MeasurementResult:
        model = await self._model(request)
        spec = {
            "model": str(model),
            "engine": request.engine,
            "threads": self._limits.threads,
            "memory_bytes": self._limits.memory_bytes,
            "rest_celsius": self._rest.begin(asyncio.get_running_loop().time(), temperature_celsius()),
            "effort": {
                "warm_up_repeats": request.warm_up_repeats,
                "min_repeats": request.min_repeats,
                "max_repeats": request.max_repeats,
                "budget_seconds": request.budget_seconds,
            },
        }
        write_atomically(self._spec, json.dumps(spec).encode("utf-8"))
        said = await _run_profile(self._spec, request.budget_seconds + _SLACK_SECONDS)
        self._bundles.to_measure = Wish()
        self._bundles.collect()
        self._rest.end(asyncio.get_running_loop().time())
        return measurement_result(request.id, said)

    async def _model(self, request: agent_pb2.MeasurementRequest) -> Path:
        """Return where the model is on this device, fetched and checked."""
        bundles, depot = self._bundles, self._bundles.depot
        files = tuple(WantedFile(file.path, file.digest, file.size_bytes) for file in request.files)
        manifest = next((file.digest for file in files if file.path == "manifest.json"), "")
        wish = Wish(bundle=manifest, files=files)
        bundles.compare(request.batch if request.batch_size > 1 else "")
        await bundles.download_to_measure(wish)
        # What is only measured is run as well.
        depot.verify(wish)
        if manifest:
            await bundles.check(wish)
        model = depot.model(wish)
        if manifest:
            # What the device builds is measured as built, and never what it would fall back to.
            model = await bundles.engines.built(manifest, depot.bundle(manifest)) or model
        if request.batch_size > 1 and wish not in bundles.compared:
            bundles.compared.append(wish)
        return model


async def _run_profile(spec: Path, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "milonga_agent.profile", str(spec), stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await ended_within(process, seconds)
    except asyncio.TimeoutError:
        return {"error": f"the measurement did not end within {seconds:.0f} s"}
    try:
        said: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        # Killed, most often for want of memory.
        return {"error": f"the measuring process ended with exit code {process.returncode}"}
    return said


def measurement_result(id_: str, said: dict[str, Any]) -> agent_pb2.MeasurementResult:
    """Return what the measuring process said, as the hub hears it; a figure that it lacks is not-a-number."""
    if "error" in said:
        return agent_pb2.MeasurementResult(id=id_, error=said["error"])
    told: dict[str, Any] = {name: math.nan if value is None else value for name, value in said.items()}
    percentiles = common_pb2.Percentiles.DESCRIPTOR.fields_by_name
    latency = common_pb2.Percentiles(**{name: told.pop(name) for name in percentiles})
    return agent_pb2.MeasurementResult(id=id_, latency_ms=latency, **told)


def profile_request(number: int, wish: Wish, engine: str) -> agent_pb2.MeasurementRequest:
    """Return what this device asks of itself to time a bundle as thoroughly as the hub would."""
    return agent_pb2.MeasurementRequest(
        id=f"profile/{number}",
        files=[common_pb2.File(path=file.path, digest=file.digest, size_bytes=file.size_bytes) for file in wish.files],
        engine=engine,
        warm_up_repeats=5,
        min_repeats=20,
        max_repeats=300,
        budget_seconds=10.0,
    )
