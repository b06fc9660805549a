"""The agent: observe, plan, act, report. Stays small: engines live in workers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import math
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from milonga.v1 import agent_pb2, common_pb2, devices_pb2

import milonga_agent
from milonga_agent import plan
from milonga_agent.device_builds import Record
from milonga_agent.engines import Engines
from milonga_agent.enrolment import Joining, enrol, identity, patiently
from milonga_agent.errors import AgentError, BadBundle, DiskFull, HubUnreachable, InUse, Refused
from milonga_agent.files import write_atomically
from milonga_agent.hub import Courier, Hub
from milonga_agent.inventory import probe, temperature_celsius
from milonga_agent.keys import make_request
from milonga_agent.limits import Limits
from milonga_agent.plan import Outcome, State, Step, WantedFile, Wish
from milonga_agent.pursuit import Pursuit, outcome_of
from milonga_agent.serving import Serving
from milonga_agent.state import Identity, Store
from milonga_agent.steps import Depot
from milonga_agent.supervision import confirm_start, keep_alive, notify, switched_back
from milonga_agent.telemetry import Boot, Sender, Spool, window_of
from milonga_agent.trusting import Trust
from milonga_agent.upkeep import STEADY_SECONDS, Upkeep

_log = logging.getLogger(__name__)

_MAX_BACKOFF_SECONDS = 30.0
# Failures after which the longest wait is reached.
_PATIENT = 10
_MAX_REFUSED_SECONDS = 3600.0
# Progress of a download is told this often at most.
_PROGRESS_STEP = 0.1
# After this, a measurement is stopped whatever it says: loading, cooling down and a slow model.
_MEASURING_SLACK_SECONDS = 100.0
# A device that has not measured for so long is at rest again.
_RESTED_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    """What the operator says; everything else is probed."""

    hub: str
    data_dir: Path
    name: str
    join_token: str = ""
    fingerprint: str = ""
    trust_first: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    board: str = ""
    limits: Limits = field(default_factory=Limits)
    engines: tuple[str, ...] | None = None
    serve_port: int = 0
    trusted_root: Path | None = None


def backoff_seconds(attempt: int, source: random.Random) -> float:
    """Return how long to wait after the n-th failure: doubling, with jitter so that a fleet does not return as one."""
    return min(_MAX_BACKOFF_SECONDS, 0.25 * 2.0 ** min(attempt, _PATIENT)) * source.uniform(0.5, 1.0)


def refused_seconds(attempt: int, source: random.Random) -> float:
    """Return how long to wait after the n-th refusal in a row: no repetition changes the hub's mind, an operator may."""
    return min(_MAX_REFUSED_SECONDS, 30.0 * 2.0**attempt) * source.uniform(0.75, 1.0)


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


class Agent:
    """One device's daemon. `await agent.run()` works until it is cancelled."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._store = Store(options.data_dir)
        self._joining = Joining(
            hub=options.hub,
            name=options.name,
            inventory=self._inventory,
            join_token=options.join_token,
            labels=options.labels,
            simulated=bool(options.board),
            fingerprint=options.fingerprint,
            trust_first=options.trust_first,
            joined=self._trust_anew,
        )
        self._courier = Courier(self._store)
        self._lock = _lock(options.data_dir)
        self._depot = Depot(options.data_dir)
        self._trust = Trust(options.data_dir / "trust")
        self._engines = Engines(options.data_dir / "engines", options.limits, self._tell_build)
        self._boot = Boot(options.data_dir)
        self._spool = Spool(options.data_dir / "spool")
        self._state = self._store.state()
        self._random = random.Random()
        self._settings = agent_pb2.Settings(heartbeat_seconds=10.0, telemetry_seconds=30.0)
        self._settings_changed = asyncio.Event()
        self._work = asyncio.Event()
        self._status_changed = asyncio.Event()
        self._outgoing: asyncio.Queue[agent_pb2.ConnectRequest] = asyncio.Queue()
        # Reports of steps wait here while the hub is away; they are told again in order.
        self._unsent: list[agent_pb2.StepReport] = []
        self._connected = False
        # Asks for the next certificate in time.
        self._renewal: asyncio.Future[None] | None = None
        # What the measurement under way needs: not to be collected.
        self._to_measure = Wish()
        self._measuring: asyncio.Queue[agent_pb2.MeasurementRequest] = asyncio.Queue()
        self._rest = Rest()
        self._serving: Serving | None = None
        self._upkeep: Upkeep | None = None
        self._sender: Sender | None = None
        self._process = psutil.Process()
        # Whether the state in memory is on disk; while it is not, no step is begun: what it does could not be counted.
        self._kept = True
        self._remember(plan.restart(self._state))

    async def enrol(self, wait: bool = True) -> Identity:
        """Have this device's key signed, again where a token is given. Raises Refused, or without `wait` also Waiting."""

        async def attempt() -> Identity:
            return await (enrol if self._joining.join_token else identity)(self._joining, self._store)

        return await (patiently(attempt, self._backoff_seconds) if wait else attempt())

    def _trust_anew(self) -> None:
        """Trust the hub that this device just joined, and none that it was with before."""
        self._trust.forget()
        self._pin()

    def _pin(self) -> None:
        """Trust the root metadata that the operator gave, where one was given."""
        path = self._options.trusted_root
        if path is not None:
            try:
                self._trust.begin(path.read_bytes())
            except OSError as error:
                raise AgentError(f"cannot use {path} as trusted root metadata: {error}; see --trusted-root") from error

    def _inventory(self) -> Any:
        options = self._options
        return probe(options.limits, options.engines, options.board, options.data_dir)

    async def run(self) -> None:
        """Work until cancelled. Raises AgentError where the agent cannot go on."""
        port = self._options.serve_port or self._store.serve_port()
        self._serving = await self._open(port)
        with contextlib.suppress(DiskFull):
            self._store.keep_serve_port(self._serving.port)
        # First of all: what was served last is served before and without the hub.
        self._upkeep = Upkeep(self._serving, self._depot, lambda: self._state, self._remember, self._tell)
        tasks = [asyncio.ensure_future(self._upkeep.run()), asyncio.ensure_future(self._confirm())]
        try:
            tasks.append(asyncio.ensure_future(self._work_for_hub()))
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    ended.result()
                    tasks.remove(ended)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop()

    async def _work_for_hub(self) -> None:
        self._pin()
        identity = await self._admitted()
        self._joining = replace(self._joining, name=identity.device)
        self._sender = Sender(identity, self._boot.id, self._spool, self._store)
        self._sender.start()
        loops = [
            self._keep_connected(identity),
            self._pursue(),
            self._measure(),
            self._observe(),
        ]
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _confirm(self) -> None:
        """Say that this version of the agent works, so that no start of it leads back to the one before."""
        await asyncio.sleep(STEADY_SECONDS)
        confirm_start()

    async def _stop(self) -> None:
        assert self._serving is not None
        worker = self._serving.active
        if worker is not None and worker.alive and worker.wish.bundle == self._state.active.bundle:
            # It did not end by itself.
            self._remember(plan.steady(self._state))
        await self._serving.close()
        if self._sender is not None:
            self._sender.stop()

    async def _open(self, port: int) -> Serving:
        def keep(wish: Wish, counted: dict[str, Any]) -> None:
            self._put_window(wish, counted)

        try:
            return Serving(port, self._options.limits, keep, self._engines)
        except InUse:
            if self._options.serve_port:
                raise
            return Serving(0, self._options.limits, keep, self._engines)

    def _backoff_seconds(self, count: int) -> float:
        return backoff_seconds(count, self._random)

    async def _admitted(self) -> Identity:
        """Return who this device is. A hub that refuses it ends an agent that serves nothing, and no other."""
        count = 0
        while True:
            try:
                return await patiently(lambda: identity(self._joining, self._store), self._backoff_seconds)
            except AgentError as error:
                if not self._state.active.bundle:
                    raise
                count += 1
                await self._wait_refused(str(error), count)

    async def _wait_refused(self, problem: str, count: int) -> None:
        seconds = refused_seconds(count, self._random)
        _log.error("%s; what is installed is served on, and the hub is asked again in %.0f min", problem, seconds / 60)
        if self._sender is not None:
            # In a thread: it waits for the client's own, which may be trying to connect.
            await asyncio.get_running_loop().run_in_executor(None, self._sender.stop)
        await asyncio.sleep(seconds)
        if self._sender is not None:
            self._sender.start()

    # observe and report

    async def _keep_connected(self, identity: Identity) -> None:
        failures = refusals = 0

        def handle(message: agent_pb2.ConnectResponse) -> None:
            nonlocal failures, refusals
            failures = refusals = 0
            self._handle(message)

        while True:
            hub = Hub(identity, self._store.credentials())
            heart = asyncio.ensure_future(self._beat())
            try:
                self._outgoing = asyncio.Queue()
                self._outgoing.put_nowait(self._hello())
                self._connected = True
                for report in self._unsent:
                    self._outgoing.put_nowait(agent_pb2.ConnectRequest(step=report))
                self._unsent.clear()
                for record in self._engines.records:
                    self._tell_build(record)
                await hub.connect(self._outgoing, handle)
            except AgentError as error:
                # Not the error itself: its frames would hold the call, and that the connection, which tries on for ever.
                problem, refused = str(error), isinstance(error, Refused)
            finally:
                self._connected = False
                heart.cancel()
                self._renew_after(0)
                await hub.close()
            if refused:
                refusals += 1
                if refusals > 1 or not self._joining.join_token:
                    await self._wait_refused(problem, refusals)
            else:
                failures += 1
                seconds = self._backoff_seconds(failures)
                _log.warning("%s; trying again in %.1f s", problem, seconds)
                await asyncio.sleep(seconds)
            if failures > 1 or (refusals and self._joining.join_token):
                identity = await self._certified_again() or identity

    async def _certified_again(self) -> Identity | None:
        """Ask for a certificate where machines join: this device's may have ended, or the hub's ports may have changed."""
        try:
            identity = await enrol(self._joining, self._store, again=True)
        except HubUnreachable:
            return None  # It is down; that was said.
        except AgentError as error:
            _log.warning("no new certificate: %s", error)
            return None
        self._put_to_use(identity)
        return identity

    def _put_to_use(self, identity: Identity) -> None:
        if self._sender is not None:
            self._sender.use(identity)

    async def _renew(self, seconds: float) -> None:
        """Ask for a new certificate on the open stream, when the hub said."""
        await asyncio.sleep(seconds)
        request = agent_pb2.CertificateRequest(certificate_request=await make_request(self._options.data_dir))
        self._outgoing.put_nowait(agent_pb2.ConnectRequest(certificate_request=request))

    def _renew_after(self, seconds: float) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.ensure_future(self._renew(seconds)) if seconds else None

    def _hello(self) -> agent_pb2.ConnectRequest:
        hello = agent_pb2.Hello(
            inventory=self._inventory(),
            agent_version=milonga_agent.__version__,
            boot_id=self._boot.id,
            status=self._status(),
        )
        return agent_pb2.ConnectRequest(hello=hello)

    def _status(self) -> agent_pb2.AgentStatus:
        assert self._serving is not None
        worker = self._serving.active if self._serving.active and self._serving.active.alive else None
        return agent_pb2.AgentStatus(
            generation=self._state.generation,
            active_bundle=worker.wish.bundle if worker else "",
            serving_url=f"http://127.0.0.1:{self._serving.port}" if worker else "",
            message=" ".join(filter(None, (switched_back(), self._state.message))),
            active_engine=worker.choice.target if worker else "",
        )

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._status_changed.wait(), self._settings.heartbeat_seconds)
            self._status_changed.clear()
            heartbeat = agent_pb2.Heartbeat(status=self._status())
            self._outgoing.put_nowait(agent_pb2.ConnectRequest(heartbeat=heartbeat))

    def _handle(self, message: agent_pb2.ConnectResponse) -> None:
        kind = message.WhichOneof("message")
        if kind == "assignment":
            self._set_state(plan.accept(self._state, _wish(message.assignment)))
        elif kind == "measurement_request":
            self._measuring.put_nowait(message.measurement_request)
        elif kind == "settings":
            self._settings = message.settings
            self._renew_after(message.settings.renew_after_seconds)
            self._settings_changed.set()
            # The heartbeat under way was for the old interval.
            self._status_changed.set()

        elif kind == "certificate":
            self._store.keep_certificate(message.certificate.certificate)
            identity = self._store.identity()
            assert identity is not None
            self._put_to_use(identity)
            self._renew_after(message.certificate.renew_after_seconds)
            _log.info("the hub renewed this device's certificate")

    def _report(self, step: Step, state: str, message: str = "", progress: float = 0.0) -> None:
        report = agent_pb2.StepReport(
            generation=self._state.wish.generation,
            step=agent_pb2.Step.Value(f"STEP_{step.value}"),
            state=agent_pb2.StepState.Value(f"STEP_STATE_{state}"),
            message=message,
            progress=progress,
            attempt=self._state.position.attempt,
        )
        report.reported_at.GetCurrentTime()
        if self._connected:
            self._outgoing.put_nowait(agent_pb2.ConnectRequest(step=report))
        else:
            self._unsent.append(report)

    def _tell_build(self, record: Record) -> None:
        """Tell the hub; all are told again when it is back."""
        if self._connected:
            self._outgoing.put_nowait(agent_pb2.ConnectRequest(device_build=device_build(record)))

    def _tell(self, step: Step | None = None, state: str = "", message: str = "") -> None:
        """Report what upkeep did, and that what is served has changed."""
        if step is not None:
            self._report(step, state, message)
        self._status_changed.set()

    # plan and act

    def _set_state(self, state: State) -> None:
        """Remember a state, and act on it. Raises DiskFull or OSError, and then nothing has changed."""
        if state == self._state and self._kept:
            return
        self._store.keep_state(state)
        self._state, self._kept = state, True
        self._changed()

    def _remember(self, state: State) -> None:
        """Act on a state even where the disk is full: serving goes on."""
        try:
            self._set_state(state)
        except (AgentError, OSError) as error:
            _log.error("what the agent does cannot be written down: %s", error)
            self._state, self._kept = state, False
            self._changed()

    def _changed(self) -> None:
        self._work.set()
        self._status_changed.set()
        if self._upkeep is not None:
            self._upkeep.wake()

    async def _pursue(self) -> None:
        """Bring about what the hub wishes, one step after the other."""
        assert self._serving is not None
        pursuit = Pursuit(self._depot, self._serving, self._courier.fetch, self._check, self._engines.build)
        self._collect()
        failures = 0
        while True:
            if self._state.position.step is None:
                self._work.clear()
                await self._work.wait()
                continue
            try:
                self._set_state(self._state)
                await self._step(pursuit)
                failures = 0
            except (AgentError, OSError) as error:
                # The step is done again: nothing of it counts before it is written down.
                failures += 1
                _log.error("what the agent does cannot be written down: %s", error)
                await asyncio.sleep(backoff_seconds(failures, self._random))

    async def _step(self, pursuit: Pursuit) -> None:
        step, began = self._state.position.step, self._state
        assert step is not None
        self._report(step, "STARTED")
        try:
            await pursuit.perform(began, self._progress())
        except HubUnreachable as error:
            # The network's absence is nobody's failure; it is waited out.
            _log.warning("%s: %s", step.value.lower(), error)
            await asyncio.sleep(backoff_seconds(2, self._random))
            return
        except (AgentError, OSError) as error:
            _log.error("%s failed: %s", step.value.lower(), error)
            self._report(step, "FAILED", str(error))
            if self._state == began:
                self._set_state(plan.advance(began, outcome_of(step, error), str(error)))
            if isinstance(error, (DiskFull, OSError)):
                await asyncio.sleep(backoff_seconds(began.position.attempt, self._random))
            return
        if step is Step.ACTIVATE and began.wish.bundle:
            _log.info("serving %s on port %d", began.wish.model_version, self._serving.port if self._serving else 0)
        self._report(step, "SUCCEEDED", progress=1.0)
        # A newer wish may have come meanwhile; then this step's success is of no use.
        if self._state == began:
            self._set_state(plan.advance(began, Outcome.SUCCEEDED))
        if self._state.position.step is None:
            self._collect()

    async def _check(self, wish: Wish) -> None:
        """Return if the bundle is signed for the project that its manifest names. Raises Untrusted."""
        manifest = next(file for file in wish.files if file.path == "manifest.json")
        await self._trust.check(self._depot.project(wish), manifest.digest, manifest.size_bytes, self._courier.metadata)

    def _collect(self) -> None:
        """Remove what nobody needs, once it is written down what is needed; an agent without memory removes nothing."""
        if self._kept and self._state.generation:
            kept = [*self._state.kept, self._to_measure]
            self._depot.collect(kept)
            self._engines.collect({wish.bundle for wish in kept if wish.bundle})

    def _progress(self) -> Callable[[float], None]:
        told = 0.0

        def tell(fraction: float) -> None:
            nonlocal told
            if fraction - told >= _PROGRESS_STEP:
                told = fraction
                self._report(Step.DOWNLOAD, "STARTED", progress=fraction)

        return tell

    # measure

    async def _measure(self) -> None:
        """Measure what the hub asks for, one model at a time, each in a process of its own."""
        while True:
            request = await self._measuring.get()
            try:
                result = await self._measured(request)
            except HubUnreachable:
                continue  # The hub asks again when it is back.
            except (AgentError, OSError) as error:
                result = agent_pb2.MeasurementResult(id=request.id, error=str(error))
            self._outgoing.put_nowait(agent_pb2.ConnectRequest(measurement=result))

    async def _measured(self, request: agent_pb2.MeasurementRequest) -> agent_pb2.MeasurementResult:
        files = tuple(WantedFile(file.path, file.digest, file.size_bytes) for file in request.files)
        manifest = next((file.digest for file in files if file.path == "manifest.json"), "")
        self._to_measure = Wish(bundle=manifest, files=files)
        await self._depot.download(files, self._courier.fetch, lambda fraction: None)
        # What is only measured is run as well.
        self._depot.verify(self._to_measure)
        if manifest:
            await self._check(self._to_measure)
        model = self._depot.model(self._to_measure)
        if manifest:
            # What the device builds is measured as built, and never what it would fall back to.
            model = await self._engines.built(manifest, self._depot.bundle(manifest)) or model
        limits = self._options.limits
        spec = {
            "model": str(model),
            "engine": request.engine,
            "threads": limits.threads,
            "memory_bytes": limits.memory_bytes,
            "rest_celsius": self._rest.begin(asyncio.get_running_loop().time(), temperature_celsius()),
            "effort": {
                "warm_up_repeats": request.warm_up_repeats,
                "min_repeats": request.min_repeats,
                "max_repeats": request.max_repeats,
                "budget_seconds": request.budget_seconds,
            },
        }
        path = self._options.data_dir / "measuring.json"
        write_atomically(path, json.dumps(spec).encode("utf-8"))
        said = await _run_profile(path, request.budget_seconds + _MEASURING_SLACK_SECONDS)
        self._to_measure = Wish()
        self._collect()
        self._rest.end(asyncio.get_running_loop().time())
        return measurement_result(request.id, said)

    # telemetry

    async def _observe(self) -> None:
        """Take a window every so often, and bring back a worker that died."""
        assert self._serving is not None and self._sender is not None
        self._process.cpu_percent()
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._settings_changed.wait(), self._settings.telemetry_seconds)
            self._settings_changed.clear()
            try:
                taken = await self._serving.take()
            except BadBundle as error:
                _log.error("%s; starting it again", error)
                await self._serving.drop()
                continue
            if taken is not None:
                self._put_window(*taken)
            self._sender.flush()

    def _put_window(self, wish: Wish, counted: dict[str, Any]) -> None:
        if self._sender is None:
            return
        identity = self._store.identity()
        assert identity is not None
        cpu, memory = self._usage()
        about: dict[str, Any] = {
            "device": identity.device,
            "boot_id": self._boot.id,
            "sequence": self._boot.next_sequence(),
            "bundle": wish.bundle,
            "model_version": wish.model_version,
            "project": wish.project,
            "cpu_percent": cpu,
            "memory_bytes": memory,
            "temperature_celsius": temperature_celsius() or float("nan"),
        }
        self._sender.put(self._boot.order, window_of(counted, about))

    def _usage(self) -> tuple[float, int]:
        """Return CPU in percent of one core and memory in bytes, of the daemon and its workers."""
        processes = [self._process, *self._process.children()]
        memory = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                memory += process.memory_info().rss
        return self._cpu_percent(processes), memory

    def _cpu_percent(self, processes: list[psutil.Process]) -> float:
        now = asyncio.get_running_loop().time()
        used = {}
        for process in processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
        before, self._used = getattr(self, "_used", (now, used)), (now, used)
        seconds = now - before[0]
        spent = sum(value - before[1].get(pid, 0.0) for pid, value in used.items())
        return max(0.0, 100.0 * spent / seconds) if seconds > 0 else 0.0


async def _run_profile(spec: Path, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "milonga_agent.profile", str(spec), stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), seconds)
    except asyncio.TimeoutError:
        return {"error": f"the measurement did not end within {seconds:.0f} s"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
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


def device_build(record: Record) -> devices_pb2.DeviceBuild:
    """Return what came of a build, as the hub hears it."""
    told = {name: value for name, value in vars(record).items() if name != "state" and value is not None}
    state = devices_pb2.DeviceBuildState.Value(f"DEVICE_BUILD_STATE_{record.state.value}")
    return devices_pb2.DeviceBuild(state=state, **told)


def _wish(assignment: agent_pb2.Assignment) -> Wish:
    return Wish(
        generation=assignment.generation,
        bundle=assignment.bundle,
        files=tuple(WantedFile(file.path, file.digest, file.size_bytes) for file in assignment.files),
        model_version=assignment.model_version,
        project=assignment.project,
        expected_ms=assignment.expected_ms,
    )


def _lock(folder: Path) -> int:
    """Hold the data folder for this process alone; the kernel lets go of it however the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(str(folder / "agent.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InUse(f"another agent uses {folder}; stop it, or choose another folder with --data-dir") from error
    return descriptor


async def run(options: Options) -> None:
    """Run an agent until SIGINT or SIGTERM. Raises AgentError where it cannot go on."""
    options.limits.apply_cpus()
    agent = Agent(options)
    alive = asyncio.ensure_future(keep_alive())
    working = asyncio.ensure_future(agent.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, working.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await working
        # Stopped by its operator: no start that failed.
        confirm_start()
    finally:
        alive.cancel()
        notify("STOPPING=1")
