"""Makes builds that people ask for outside runs: one at a time, measured beside the others of its type where a device is connected."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any, Protocol

from milonga_hub import tracing
from milonga_hub.blobs import digest_of
from milonga_hub.builds import rules, service, tuned
from milonga_hub.builds.models import Build
from milonga_hub.builds.service import BuildService, project_of
from milonga_hub.builds.values import BuildState, TuningSite
from milonga_hub.db import utc_now
from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.errors import DatabaseUnreachable, FailedPrecondition, MilongaError, OutOfRoom
from milonga_hub.fencing import LeadLost
from milonga_hub.jobs import JobCrashed, Jobs, OnQuestion, Progress
from milonga_hub.runs.models import StageState

_log = logging.getLogger(__name__)

# As for runs: a job that dies three times in a row will die again.
_MAX_CRASHES = 3
_AGAIN_SECONDS = 1.0
# Without any answer: devices that were connected and are not any more must not hold up the builds behind.
_MEASURING_SECONDS = 600.0
# What a build job reads; a run left all of it in its folder. There is no data where a model was imported without.
_FILES = ("onnx", "expected", "data")


class Devices(service.Devices, Protocol):
    """What builds need of DeviceService."""

    def matching(self, selector: str) -> list[Device]: ...


class BuildRunner:
    """`folder` holds a folder for each build."""

    def __init__(self, builds: BuildService, devices: Devices, folder: Path, jobs: Jobs) -> None:
        self._builds = builds
        self._devices = devices
        self._folder = folder
        self._jobs = jobs
        self._making: asyncio.Task[None] | None = None
        builds.growing_log = lambda build: self._place(build) / f"{build.engine}-{build.precision}.log"

    async def run(self) -> None:
        """Work until cancelled; what is in progress then goes on at the next start."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()

        def queued() -> None:
            loop.call_soon_threadsafe(wake.set)

        def cancelled(name: str) -> None:
            loop.call_soon_threadsafe(self._cancel, name)

        self._builds.on_queued, self._builds.on_cancelled = queued, cancelled
        while True:
            wake.clear()
            while waiting := self._builds.queued():
                await self._make_cancellably(waiting[0])
            await wake.wait()

    async def _make_cancellably(self, build: Build) -> None:
        self._making = asyncio.create_task(self._make(build), name=build.name)
        try:
            await asyncio.wait([self._making])
        finally:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    def _cancel(self, name: str) -> None:
        if self._making is not None and self._making.get_name() == name:
            self._making.cancel()

    async def _make(self, build: Build) -> None:
        try:
            with tracing.span("build", build=build.name):
                await self._attempt(build)
        except (DatabaseUnreachable, LeadLost) as error:
            # It stays queued, for whoever leads next.
            _log.warning("%s is interrupted: %s", build.name, error)
            await asyncio.sleep(_AGAIN_SECONDS)
            return
        except OutOfRoom as error:
            # What the job made is there, and only to be kept; it stays queued until then.
            self._builds.change_stage(build.name, "build", message=f"{error}; it goes on by itself then")
            await self._jobs.until_room(self._place(build))
        except MilongaError as error:
            self._builds.end(build.name, str(error))
        except Exception as error:
            _log.exception("%s failed", build.name)
            self._builds.end(build.name, f"a fault of the hub ended the build: {error!r}; see its log")
        else:
            self._builds.end(build.name)

    async def _attempt(self, build: Build) -> None:
        order = self._builds.orders.get(build.model_version, build.device_type)
        if all(stage.attempts == 0 for stage in build.stages):
            shutil.rmtree(self._place(build), ignore_errors=True)  # Of an earlier build: this one begins from nothing.
        self._open(build, "build")
        gone = [order.spec[name] for name in _FILES if order.spec[name] and not Path(order.spec[name]).exists()]
        if gone:
            raise FailedPrecondition(f"{', '.join(gone)} is gone, from which to build; start a run: milonga runs start")
        held = await asyncio.to_thread(self._held, build) if build.made_on_devices else []
        spec = {**order.spec, "targets": [build.target], "held": held}
        spec |= await asyncio.to_thread(self._tuning_of, build, order.spec)
        result = await self._job(build, spec)
        (made,) = await asyncio.to_thread(
            self._builds.record,
            build.model_version,
            build.device_type,
            result["builds"],
            order.predicted_ms,
            build.task,
        )
        self._close(build, "build", StageState.SUCCEEDED, f"{made.state.lower()}{made.reason and f': {made.reason}'}")
        await self._measure(made)

    def _held(self, build: Build) -> list[str]:
        """Return the folders of builds of the same network that are proved, the fastest first: what devices fall back to."""
        some = [
            one
            for one in self._builds.of_type(build.model_version, build.device_type)
            if one.state is BuildState.VERIFIED and not one.made_on_devices
        ]
        some.sort(key=lambda one: (one.measured_ms is None, one.measured_ms))
        place = self._place(build)
        return [str(self._builds.unpack(one.bundle, place / f"held-{number}")) for number, one in enumerate(some, 1)]

    def _tuning_of(self, build: Build, ordered: dict[str, Any]) -> dict[str, Any]:
        """Return what the job is told of tuning, in place of what the run's job was told."""
        wanted, architecture = build.wanted_tuning, ordered.get("architecture", "")
        if "tuning_database" not in ordered:
            if wanted is None:
                return {}
            raise FailedPrecondition(
                f"{build.model_version} is of an earlier version of the hub, which kept no tuned kernels; start a run: milonga"
                " runs start"
            )
        root = tuned.root_of(Path(ordered["tuning_database"]))
        if wanted is None:
            return tuned.asked_of_job(root, architecture, build.device_type, ordered.get("tuning_minutes", 0.0))
        if wanted.site is TuningSite.HUB:
            return {"tuning_minutes": wanted.minutes, "tuning_database": str(tuned.on_hub(root, architecture))}
        on = self._builds.device_tunings
        return on.asked_of_job(project_of(build), root, build.device_type, wanted.minutes, wanted.wanted_device)

    def _questions(self, build: Build) -> OnQuestion | None:
        """Return what answers the job, where it tunes on devices."""
        wanted = build.wanted_tuning
        if wanted is None or wanted.site is not TuningSite.DEVICE:
            return None

        def tell(words: str) -> None:
            self._builds.change_stage(build.name, "build", message=words)

        on = self._builds.device_tunings
        return on.answering(project_of(build), build.device_type, tell, wanted.wanted_device)

    async def _job(self, build: Build, spec: dict[str, Any]) -> dict[str, Any]:
        def tell(progress: Progress) -> None:
            self._builds.change_stage(
                build.name, "build", progress=progress.fraction, message=progress.message, where=progress.where
            )

        for crash in range(1, _MAX_CRASHES + 1):
            try:
                return await self._jobs.run("build", spec, self._place(build), tell, self._questions(build))
            except JobCrashed:
                if crash == _MAX_CRASHES:
                    raise
        raise AssertionError

    async def _measure(self, build: Build) -> None:
        if rules.rejected(build):
            self._close(build, "measure", StageState.SKIPPED, "there is nothing to measure")
        elif not any(one.device_type == build.device_type for one in self._online()):
            why = f"no device of type {build.device_type} is connected"
            self._builds.set_measured(build.name, None, error=why)
            self._close(build, "measure", StageState.SKIPPED, why)
        elif unsigned := self._unsigned(build):
            self._builds.set_measured(build.name, None, error=unsigned)
            self._close(build, "measure", StageState.SKIPPED, unsigned)
        else:
            self._open(build, "measure")
            self._close(build, "measure", *await self._measured(build))
        best = self._builds.compare(build.model_version, build.device_type)
        if best is not None and best.name == build.name and not best.chosen:
            told = f"it is the fastest of its type now; take it with: milonga build choose {build.name}"
            message = next(stage.message for stage in self._builds.get(build.name).stages if stage.name == "measure")
            self._builds.change_stage(build.name, "measure", message=f"{message}; {told}")

    def _unsigned(self, build: Build) -> str:
        """Return why no device runs it, not even to measure it; "" where it is signed."""
        try:
            self._builds.demand_signed([build])
        except FailedPrecondition as error:
            return str(error)
        return ""

    async def _measured(self, build: Build) -> tuple[StageState, str]:
        """Have it measured in turn with what else could be used: only what was measured side by side can be compared."""
        some = [build, *self._others(build)]
        seconds = _MEASURING_SECONDS + max(one.building_seconds for one in some)
        loop = asyncio.get_running_loop()

        def tell(words: str) -> None:
            silence.reschedule(loop.time() + seconds)
            self._builds.change_stage(build.name, "measure", message=words)

        def count(done: int, of: int) -> None:
            tell(f"measured {done} of {of} on the devices")

        # Beside the same builds, what a hub that was stopped meanwhile had found is found again; beside others all is measured anew.
        purpose = f"build {digest_of(' '.join(sorted(one.bundle for one in some)).encode())}"
        try:
            async with asyncio.timeout(seconds) as silence:
                one, *_ = await self._builds.measure(self._devices, some, build.name, purpose, count, tell)
        except TimeoutError:
            why = f"no device of type {build.device_type} measured it within {seconds:g} s"
            self._builds.set_measured(build.name, None, error=why)
            return StageState.FAILED, why
        if one.median_ms is None:
            return StageState.FAILED, rules.said_on(one.device, one.error)
        return StageState.SUCCEEDED, f"{one.median_ms:.3g} ms on {one.device}"

    def _others(self, build: Build) -> list[Build]:
        """Return the other builds of the same network for its device type that devices may run."""
        return [
            one
            for one in self._builds.of_type(build.model_version, build.device_type)
            if one.name != build.name and not rules.rejected(one) and not self._unsigned(one)
        ]

    def _online(self) -> list[Device]:
        return [device for device in self._devices.matching("") if device.state is DeviceState.ONLINE]

    def _open(self, build: Build, stage: str) -> None:
        known = next(one for one in self._builds.get(build.name).stages if one.name == stage)
        self._builds.change_stage(
            build.name, stage, state=StageState.RUNNING, started_at=utc_now(), attempts=known.attempts + 1
        )

    def _close(self, build: Build, stage: str, state: StageState, message: str) -> None:
        self._builds.change_stage(build.name, stage, state=state, ended_at=utc_now(), progress=1.0, message=message)

    def _place(self, build: Build) -> Path:
        return (self._folder / build.name.replace("/", "-").replace(":", "-")).absolute()
