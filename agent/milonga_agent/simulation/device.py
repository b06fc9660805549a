"""One simulated device: the agent's own transition table, steps and protocol, around inference that is made up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf import json_format
from milonga.v1 import agent_pb2, devices_pb2
from milonga.waiting import within

import milonga_agent
from milonga_agent import plan
from milonga_agent.assignments import wish_of
from milonga_agent.comparing import judge
from milonga_agent.downloads import Offer
from milonga_agent.enrolment import identity_of
from milonga_agent.errors import AgentError, BadBundle, HubUnreachable, Refused, Superseded, Untrusted
from milonga_agent.hub import Enroller, Hub
from milonga_agent.keys import new_key, request_for
from milonga_agent.machine import told
from milonga_agent.outbox import Outbox
from milonga_agent.patience import backoff_seconds
from milonga_agent.plan import Outcome, State, Step, Wish
from milonga_agent.pursuit import Pursuit, Tell, outcome_of
from milonga_agent.reports import step_report
from milonga_agent.simulation import figures
from milonga_agent.simulation.bundles import Bundles, Passing
from milonga_agent.simulation.faults import WELL, Condition
from milonga_agent.simulation.publisher import Publisher
from milonga_agent.simulation.spec import Simulation, UpgradeEnd
from milonga_agent.simulation.tally import Tally
from milonga_agent.state import Credentials, Identity
from milonga_agent.telemetry import window_of
from milonga_agent.upgrading import wish_of as wish_of_release

# A hub that refuses a device goes on doing so until somebody acts.
_REFUSED_SECONDS = 60.0
_MEMORY_BYTES = 120_000_000


@dataclass(frozen=True)
class Surroundings:
    """What all devices of one simulation share."""

    simulation: Simulation
    tally: Tally
    authority: bytes
    enroller: Enroller
    bundles: Bundles
    # For the handshakes of MQTT, which block.
    executor: Executor
    # Tells two simulations of the same devices apart.
    started_ns: int


class Device:
    """`await device.run()` lives until it is cancelled; `condition` says what goes wrong meanwhile."""

    def __init__(self, around: Surroundings, index: int) -> None:
        self._around = around
        self._tally = around.tally
        self._simulation = around.simulation
        self.index = index
        self.name = around.simulation.name(index)
        self._machine = around.simulation.machine(index)
        self.condition: Condition = WELL
        self._random = random.Random(f"{around.simulation.seed}/{index}")
        self._boot_id = f"{around.started_ns:x}"
        self._sequence = 0
        self._state = State()
        self._settings = agent_pb2.Settings(heartbeat_seconds=10.0, telemetry_seconds=30.0)
        self._identity: Identity | None = None
        self._credentials: Credentials | None = None
        self._request = b""
        self._hub: Hub | None = None
        self._outbox = Outbox()
        self._cared = agent_pb2.Care()
        # What the hub wants by now, of which an upgrade takes its time; and what became of the last one.
        self._wanted = agent_pb2.Care()
        self._upgrading: asyncio.Task[None] | None = None
        self._upgrade_problem = ""
        # Not heard of since an upgrade.
        self._lost = False
        self._agent_version = milonga_agent.__version__
        self._online = False
        self._stream: asyncio.Future[None] | None = None
        self._pursuing: asyncio.Task[None] | None = None
        self._publisher: Publisher | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._well = asyncio.Event()
        self._well.set()
        self._wishes = asyncio.Event()
        self._pursuit = Pursuit(Passing(around.bundles, around.tally), self, self, self._check, self._build)

    # joining and staying connected

    async def run(self) -> None:
        try:
            await self._enrol()
            await self._keep_connected()
        finally:
            await self._stop()

    async def _enrol(self) -> None:
        """Join the hub, however long it takes."""
        key = new_key()
        self._request = request_for(load_pem_private_key(key, password=None))
        failures = 0
        while self._identity is None:
            await self._well.wait()
            try:
                answer = await self._around.enroller.enrol(self._wish_to_join())
            except AgentError as error:
                failures += 1
                self._tally.error(f"enrolment: {error}")
                await asyncio.sleep(self._patience(failures, isinstance(error, Refused)))
                continue
            if not answer.certificate:
                self._tally.error("enrolment: an operator must approve; give a join token")
                await asyncio.sleep(_REFUSED_SECONDS)
                continue
            self._credentials = Credentials(self._around.authority, key, answer.certificate.encode("ascii"))
            self._identity = identity_of(answer, self._simulation.hub)
        self._tally.enrolled += 1
        if self._simulation.has_telemetry(self.index):
            self._publisher = Publisher(self._identity, self._boot_id, self._tally, self._around.executor)

    def _wish_to_join(self) -> agent_pb2.EnrolRequest:
        return agent_pb2.EnrolRequest(
            join_token=self._simulation.join_token.partition(".")[0],
            device=self.name,
            inventory=self._inventory(),
            agent_version=milonga_agent.__version__,
            simulated=True,
            labels=self._machine.labels,
            certificate_request=self._request,
        )

    def _inventory(self) -> devices_pb2.Inventory:
        inventory = json_format.ParseDict(self._machine.inventory, devices_pb2.Inventory())
        inventory.hostname = inventory.machine_id = self.name
        return inventory

    async def _keep_connected(self) -> None:
        assert self._identity is not None
        failures = 0
        while True:
            await self._well.wait()
            assert self._credentials is not None
            hub = self._hub = Hub(self._identity, self._credentials)
            outgoing = self._outbox.open(self._hello())
            self._tally.sent += outgoing.qsize()
            self._stream = asyncio.ensure_future(hub.connect(outgoing, self._handle))
            (ended,) = await asyncio.gather(self._stream, return_exceptions=True)
            was_online = self._gone()
            await hub.close()
            if isinstance(ended, asyncio.CancelledError):
                failures = 0  # By a fault; then it comes back at once.
                self._tally.reconnects += 1
                continue
            if not isinstance(ended, AgentError):
                raise AssertionError("a stream ends by an error alone") from ended
            self._tally.error(str(ended))
            failures = 1 if was_online else failures + 1
            self._tally.reconnects += 1
            await asyncio.sleep(self._patience(failures, isinstance(ended, Refused)))

    def _patience(self, failures: int, refused: bool) -> float:
        return _REFUSED_SECONDS if refused else backoff_seconds(failures, self._random)

    def _gone(self) -> bool:
        """Note that there is no stream any more; return whether the hub had answered on it."""
        was_online, self._online, self._hub = self._online, False, None
        self._outbox.close()
        for name in ("beat", "renew"):
            self._cancel(name)
        if was_online:
            self._tally.online -= 1
        return was_online

    async def _stop(self) -> None:
        for name in list(self._timers):
            self._cancel(name)
        tasks = [task for task in (self._stream, self._pursuing, self._opening, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._publisher is not None:
            self._publisher.close()
        hub = self._hub
        self._gone()
        if hub is not None:
            await hub.close()

    # what goes wrong

    def suffer(self, condition: Condition) -> None:
        """Be in this condition from now on."""
        self.condition = condition
        self._lost = self._lost and condition.upgrade is not None
        if condition.offline or self._lost:
            self._go_away()
        else:
            self._well.set()

    def _go_away(self) -> None:
        """Lose all connections, and make none until something says that all is well."""
        self._well.clear()
        self.disconnect()

    def disconnect(self) -> None:
        """Lose all connections."""
        if self._stream is not None:
            self._stream.cancel()
        if self._publisher is not None:
            self._publisher.close()

    def flood(self, count: int) -> None:
        """Send so many more heartbeats, and windows of telemetry."""
        for _ in range(count if self._online else 0):
            self._send(heartbeat=self._heartbeat())
            self._put_window()

    # the stream

    def _send(self, **message: Any) -> None:
        self._outbox.send(**message)
        self._tally.sent += 1

    def _hello(self) -> agent_pb2.Hello:
        return agent_pb2.Hello(
            inventory=self._inventory(),
            agent_version=self._agent_version,
            boot_id=self._boot_id,
            status=self._status(),
            knows_shadows=True,
        )

    def _heartbeat(self) -> agent_pb2.Heartbeat:
        beat = agent_pb2.Heartbeat(status=self._status())
        beat.sent_at.FromNanoseconds(self._now_ns())
        return beat

    def _status(self) -> agent_pb2.AgentStatus:
        return agent_pb2.AgentStatus(
            generation=self._state.generation,
            active_bundle=self._state.active.bundle,
            message=self._state.message,
            restarts=self._cared.restarts,
            profiles=self._cared.profiles,
            upgrades=self._cared.upgrades,
            upgrade_problem=self._upgrade_problem,
        )

    def _handle(self, message: agent_pb2.ConnectResponse) -> None:
        self._tally.received += 1
        kind = message.WhichOneof("message")
        if kind == "settings":
            self._set_up(message.settings)
        elif kind == "assignment":
            self._become(plan.accept(self._state, wish_of(message.assignment)))
        elif kind == "measurement_request":
            self._begin(self._measure(message.measurement_request))
        elif kind == "certificate":
            assert self._credentials is not None
            self._credentials = replace(self._credentials, certificate=message.certificate.certificate.encode("ascii"))
            self._after("renew", message.certificate.renew_after_seconds, self._renew)
        elif kind == "care":
            self._care(message.care)
        elif kind == "help_request":
            answer = agent_pb2.HelpAnswer(id=message.help_request.id, error="a simulated device keeps no log")
            self._send(help_answer=answer)

    def _care(self, care: agent_pb2.Care) -> None:
        """There is no process and no hardware: it says that it is done at once, but for an upgrade, which takes its time."""
        self._wanted = care
        self._cared = agent_pb2.Care(restarts=care.restarts, profiles=care.profiles, upgrades=self._cared.upgrades)
        self._beat()
        if self._upgrading is None or self._upgrading.done():
            self._upgrading = self._begin(self._upgrade())

    # upgrades of the agent

    async def _upgrade(self) -> None:
        """Do what the hub wants by now, as the agent does: what may be better next time is tried again."""
        failures = 0
        while self._wanted.upgrades > self._cared.upgrades and self._wanted.HasField("release"):
            wanted = self._wanted
            try:
                release = wish_of_release(wanted.release)
                await self._pursuit.depot.download(release.files, self, lambda fraction: None)
                await self._check(release)
            except (Refused, Untrusted) as error:
                self._upgraded(wanted, f"the agent was not upgraded: {error}")
                continue
            except AgentError as error:
                # Also where the stream goes on and only a download broke.
                failures += 1
                self._tally.error(f"upgrade: {error}")
                await asyncio.sleep(backoff_seconds(failures, self._random))
                continue
            seconds = self._simulation.upgrade_seconds * self.condition.slowness
            await asyncio.sleep(seconds)
            await self._start_anew(wanted, seconds)

    async def _start_anew(self, wanted: agent_pb2.Care, seconds: float) -> None:
        """Come back as the release after an upgrade, or as the script says. An agent that does not start takes `seconds` to give way."""
        if self.condition.upgrade is None:
            self._agent_version = wanted.release.version or self._agent_version
            self._upgraded(wanted, "")
            self.disconnect()
            return
        end, said = self.condition.upgrade
        if end is UpgradeEnd.REFUSED:
            self._upgraded(wanted, f"the agent was not upgraded: {said or 'no room'}")
            return
        self._lost = True
        self._go_away()
        if end is UpgradeEnd.FALLS_BACK:
            await asyncio.sleep(seconds)
            self._upgraded(wanted, said or "the new agent did not start, so the one before it runs")
            self._lost = False
            self.suffer(self.condition)

    def _upgraded(self, wanted: agent_pb2.Care, problem: str) -> None:
        """Count an upgrade, and say what became of it."""
        self._cared.upgrades, self._upgrade_problem = wanted.upgrades, problem
        self._tally.upgraded += not problem
        self._tally.not_upgraded += bool(problem)
        if self._online:
            self._beat()

    def _set_up(self, settings: agent_pb2.Settings) -> None:
        """The first message of every stream: the hub has let this device in."""
        self._settings = settings
        if not self._online:
            self._online = True
            self._tally.came_online()
        self._beat()
        self._after("renew", settings.renew_after_seconds, self._renew)
        self.attend()
        if "window" not in self._timers:
            # A fleet that was switched on as one does not report as one.
            self._after("window", settings.telemetry_seconds * self._random.uniform(0.1, 1.0), self._observe)

    def _beat(self) -> None:
        self._send(heartbeat=self._heartbeat())
        self._after("beat", self._settings.heartbeat_seconds, self._beat)

    def _renew(self) -> None:
        self._send(certificate_request=agent_pb2.CertificateRequest(certificate_request=self._request))

    def _after(self, name: str, seconds: float, act: Any) -> None:
        self._cancel(name)
        if seconds > 0.0:
            self._timers[name] = asyncio.get_running_loop().call_later(seconds, act)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # assignments

    def _become(self, state: State) -> None:
        """Act on a state."""
        if state == self._state:
            return
        if state.wish != self._state.wish:
            self._wishes.set()
        self._state = state
        if self._online:
            self._beat()
        if state.position.step is not None and self._pursuing is None:
            self._tally.assigned += 1
            self._pursuing = asyncio.ensure_future(self._pursue())

    async def _pursue(self) -> None:
        try:
            while self._state.position.step is not None:
                await self._step()
        finally:
            self._pursuing = None
            self._tally.assigned -= 1
        if self._state.active.generation == self._state.generation:
            self._tally.succeeded += 1
        else:
            self._tally.failed += 1

    async def _step(self) -> None:
        """Do the step under way as the agent's daemon does."""
        step, began = self._state.position.step, self._state
        assert step is not None
        self._report(step, "STARTED")
        try:
            if step is not Step.DOWNLOAD:
                await asyncio.sleep(self._simulation.step_seconds * self.condition.slowness)
            why = self.condition.why_failing(step)
            if why is not None:
                raise BadBundle(why)
            done = await self._pursuit.perform(began, lambda fraction, said="": None)
        except Superseded:
            return
        except HubUnreachable:
            # The network's absence is nobody's failure; it is waited out.
            await asyncio.sleep(backoff_seconds(2, self._random))
            return
        except AgentError as error:
            self._report(step, "FAILED", str(error))
            if self._state == began:
                self._become(plan.advance(began, outcome_of(step, error), str(error)))
            return
        self._report(step, "SUCCEEDED", done.message, progress=1.0)
        if self._state == began:
            self._become(plan.advance(began, Outcome.SUCCEEDED))

    def _report(self, step: Step, outcome: str, message: str = "", progress: float = 0.0) -> None:
        report = step_report(self._state, step, outcome, message, progress)
        report.reported_at.FromNanoseconds(self._now_ns())
        self._tally.sent += self._outbox.is_open
        self._outbox.report(report)

    def _now_ns(self) -> int:
        return time.time_ns() + int(self.condition.clock_hours * 3600e9)

    async def fetch(self, digest: str, offset: int, length: int = 0) -> AsyncIterator[bytes]:
        hub = self._connected()
        with self._cut_short(hub):
            async for chunk in hub.fetch(digest, offset, length):
                yield chunk

    async def offer(self, digest: str, held: Sequence[str]) -> Offer:
        """It holds nothing that a delta could begin from."""
        return Offer()

    async def _check(self, wish: Wish) -> None:
        hub = self._connected()
        with self._cut_short(hub):
            await self._around.bundles.check(wish, hub.metadata)

    @contextlib.contextmanager
    def _cut_short(self, hub: Hub) -> Iterator[None]:
        """A connection that this device itself has closed, by a fault, is one more that is gone."""
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            if self._hub is hub:
                raise
            raise HubUnreachable("the connection was closed") from error

    def _connected(self) -> Hub:
        if self._hub is None:
            raise HubUnreachable(f"{self.name} is offline")
        return self._hub

    async def _build(self, bundle: str, folder: Path) -> None:
        """There is no engine to build for."""

    # what Pursuit asks of the part that serves

    async def prepare(self, wish: Wish, bundle: Path, slowest_ms: float | None = None) -> None:
        ms = self._ms(wish)
        if slowest_ms is not None and ms > slowest_ms:
            raise BadBundle(f"an answer takes {ms:.1f} ms here, more than the {slowest_ms:.1f} ms that are allowed")

    async def shadow(self, wish: Wish, bundle: Path, tell: Tell) -> str:
        """Let the time of a shadow pass, and make up what it saw."""
        wanted, active = wish.shadow, self._state.active
        assert wanted is not None
        self._wishes.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await within(self._wishes.wait(), wanted.minutes * 60.0)
            raise Superseded("the hub wishes something newer")
        requests = int(self._simulation.requests_per_second * wanted.minutes * 60.0 * wanted.share)
        seed = (self._simulation.seed, self.index, wish.bundle)
        return judge(wanted, figures.compared(requests, self._ms(active), self._ms(wish), self.condition.shift, seed))

    async def activate(self, wish: Wish, bundle: Path) -> None: ...

    async def clear(self) -> None: ...

    async def demand(self, wish: Wish) -> None: ...

    def _ms(self, wish: Wish) -> float:
        size_bytes = sum(file.size_bytes for file in wish.files)
        board = (self._simulation.seed, self.index)
        known = wish.expected_ms * figures.board(board)
        return self.condition.slowness * (
            known or figures.median_ms(self._machine.latency_ms, wish.bundle, size_bytes, board)
        )

    # measurements and telemetry

    async def _measure(self, request: agent_pb2.MeasurementRequest) -> None:
        files = tuple(plan.WantedFile(file.path, file.digest, file.size_bytes) for file in request.files)
        try:
            await self._pursuit.depot.download(files, self, lambda fraction: None)
        except HubUnreachable:
            return  # The hub asks again when this device is back.
        except AgentError as error:
            self._send(measurement=agent_pb2.MeasurementResult(id=request.id, error=str(error)))
            return
        await asyncio.sleep(self._simulation.step_seconds * self.condition.slowness)
        size_bytes = sum(file.size_bytes for file in files)
        model = files[0].digest if files else request.id
        seed = (self._simulation.seed, self.index)
        ms = self.condition.slowness * figures.median_ms(self._machine.latency_ms, model, size_bytes, seed)
        if self._online:
            self._send(measurement=figures.measurement(request, ms, seed))
            self._tally.measured += 1

    def attend(self) -> None:
        """Keep the connection for telemetry; asked every few seconds."""
        publisher = self._publisher
        if publisher is None or not self._well.is_set() or self._credentials is None:
            return
        if publisher.is_open:
            publisher.flush()
        elif self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open(publisher, self._credentials))

    async def _open(self, publisher: Publisher, credentials: Credentials) -> None:
        try:
            await publisher.open(credentials)
        except OSError as error:
            publisher.close()
            self._tally.error(f"telemetry: {error}")

    def _observe(self) -> None:
        self._put_window()
        self._after("window", self._settings.telemetry_seconds, self._observe)

    def _put_window(self) -> None:
        """Tell what was served since the last window; nothing where nothing is served."""
        active, seconds = self._state.active, self._settings.telemetry_seconds
        if self._publisher is None or not active.bundle:
            return
        self._sequence += 1
        simulation, ended = self._simulation, self._now_ns() / 1e9
        seed = (simulation.seed, self.index, self._sequence)
        requests = int(simulation.requests_per_second * seconds + figures.draw("requests", *seed))
        errors = int(requests * simulation.error_ratio + figures.draw("errors", *seed))
        counted = figures.counted(
            self._ms(active),
            requests,
            errors,
            self._around.bundles.reference(active.bundle),
            self.condition.shift,
            seed,
        )
        cpu_percent = min(100.0, simulation.requests_per_second * self._ms(active) / 10.0)
        about = {
            "device": self.name,
            "boot_id": self._boot_id,
            "sequence": self._sequence,
            "bundle": active.bundle,
            "model_version": active.model_version,
            "project": active.project,
            "cpu_percent": cpu_percent,
            "memory_bytes": _MEMORY_BYTES,
            "temperature_celsius": figures.celsius(self.condition.throttled, seed),
        }
        watts = figures.watts(self._machine.power_watts, cpu_percent, seed)
        inputs = {**counted["inputs"], **told(watts, self.condition.throttled)}
        self._publisher.put(
            window_of({**counted, "inputs": inputs, "started_at": ended - seconds, "ended_at": ended}, about)
        )
