"""The agent: observe, plan, act, report. Stays small: engines live in workers. Here its parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import signal
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from milonga.v1 import agent_pb2

from milonga_agent import plan
from milonga_agent.allocator import give_back, use_one_arena
from milonga_agent.assignments import Assignments
from milonga_agent.bundles import Bundles
from milonga_agent.cache import Cache, CacheOptions
from milonga_agent.care import Caring, StartAnew
from milonga_agent.connection import Connection, Said, wait_refused
from milonga_agent.device_builds import Record
from milonga_agent.engines import Engines
from milonga_agent.enrolment import Joining, enrol, identity, patiently
from milonga_agent.errors import AgentError, DiskFull, InUse
from milonga_agent.helping import Helping
from milonga_agent.hub import Courier
from milonga_agent.journal import Journal
from milonga_agent.limits import Limits
from milonga_agent.measuring import Measuring, profile_request
from milonga_agent.memory import Memory
from milonga_agent.outbox import Outbox
from milonga_agent.patience import backoff_seconds
from milonga_agent.plan import Step, Wish
from milonga_agent.probing import Prober
from milonga_agent.redaction import redaction
from milonga_agent.reports import Reports, device_build, sentence
from milonga_agent.sample_folder import SampleFolder
from milonga_agent.sample_sending import SampleSending
from milonga_agent.serving import Serving
from milonga_agent.state import Identity, Store
from milonga_agent.steps import Depot
from milonga_agent.supervision import confirm_start, keep_alive, notify, running_version, switched_back
from milonga_agent.telemetry import Boot, Sender, Spool
from milonga_agent.trusting import Trust, read_root
from milonga_agent.tuning import Tuning
from milonga_agent.upgrading import Upgrading
from milonga_agent.upkeep import STEADY_SECONDS, Upkeep
from milonga_agent.windows import Windows
from milonga_agent.workers import Worker

_CANCEL_AGAIN_SECONDS = 2.0


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
    # 0 for no limit.
    max_download_kbps: float = 0.0
    # None: nobody is served what lies here.
    cache: CacheOptions | None = None
    # How pictures are made unrecognisable before they are kept for labelling, and whether any may leave at all.
    redact: str = ""
    samples: bool = True
    # Whether a hub may try kernels here.
    tuning: bool = True


class Agent:
    """One device's daemon. `await agent.run()` works until it is cancelled."""

    def __init__(self, options: Options) -> None:
        redaction(options.redact)  # Words that are wrong are refused before anything is served.
        # As is a file that no build could be verified by, and before a join token is used up.
        self._root = read_root(options.trusted_root) if options.trusted_root else None
        self._options = options
        self._store = Store(options.data_dir)
        self._prober = Prober(options.limits, options.engines, options.board, options.data_dir)
        self._joining = Joining(
            hub=options.hub,
            name=options.name,
            inventory=self._prober.recent,
            join_token=options.join_token,
            labels=options.labels,
            simulated=bool(options.board),
            fingerprint=options.fingerprint,
            trust_first=options.trust_first,
            joined=self._trust_anew,
        )
        self._lock = _lock(options.data_dir)
        self._trust = Trust(options.data_dir / "trust")
        self._boot = Boot(options.data_dir)
        self._spool = Spool(options.data_dir / "spool")
        self.journal = Journal(options.data_dir, self._boot.id)
        self._outbox = Outbox()
        self._random = random.Random()
        self._memory = Memory(self._store)
        self._engines = Engines(options.data_dir / "engines", options.limits, self._tell_build)
        courier = Courier(self._store, options.max_download_kbps)
        self._bundles = Bundles(Depot(options.data_dir), self._engines, self._trust, courier, self._memory)
        self._reports = Reports(self._memory, self._outbox)
        # These begin with `run`, all but the first once the device has joined.
        self._serving: Serving | None = None
        self._sender: Sender | None = None
        self._windows: Windows | None = None
        self._connection: Connection | None = None
        self._cache: Cache | None = None
        self._caring: Caring | None = None

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
        if self._root is not None:
            self._trust.begin(self._root)

    async def run(self) -> None:
        """Work until cancelled. Raises AgentError where the agent cannot go on."""
        self._serving = serving = self._open(self._options.serve_port or self._store.serve_port())
        with contextlib.suppress(DiskFull):
            self._store.keep_serve_port(serving.port)
        memory = self._memory
        upkeep = Upkeep(serving, self._bundles.depot, lambda: memory.state, memory.remember, self._tell)
        memory.listen(upkeep.wake)
        memory.listen(self._tell)
        try:
            # First of all: what was served last is served before and without the hub.
            await _together([upkeep.run(), self._confirm(), self._work_for_hub(serving)])
        finally:
            await self._stop(serving)

    async def _work_for_hub(self, serving: Serving) -> None:
        self._pin()
        identity = await self._admitted()
        sender = self._sender = Sender(identity, self._boot.id, self._spool, self._store)
        windows = self._windows = Windows(identity, serving, self._boot, sender)
        assignments = Assignments(self._memory, serving, self._bundles, self._reports)
        folder = self._options.data_dir
        measuring = Measuring(folder, self._options.limits, self._bundles, self._outbox)
        tuning = Tuning(folder, self._options.limits, self._bundles, self._outbox, measuring.turn)
        helping = Helping(folder, self.journal, self._outbox, (self._options.join_token,))

        async def profile(number: int) -> None:
            await self._profile(number, measuring)

        upgrading = Upgrading(self._bundles, measuring.turn)
        self._caring = caring = Caring(self._store, profile, upgrading.take, self._tell, switched_back())
        samples = self._samples(serving)
        cache = None
        if self._options.cache is not None:
            cache = Cache(self._store, self._bundles.depot.blobs, self._options.cache, self._outbox)
        self._cache = cache

        def hear(message: agent_pb2.ConnectResponse) -> None:
            kind = message.WhichOneof("message")
            if kind == "assignment":
                assignments.accept(message.assignment)
            elif kind == "measurement_request":
                measuring.ask(message.measurement_request)
            elif kind == "tuning_request" and self._options.tuning:
                tuning.ask(message.tuning_request)
            elif kind == "settings":
                windows.every(message.settings.telemetry_seconds)
                connection.use(message.settings)
            elif kind == "sampling":
                samples.set_policy(message.sampling)
            elif kind == "certificate":
                connection.keep(message.certificate)
            elif kind == "help_request":
                helping.ask(message.help_request)
            elif kind == "care":
                caring.want(message.care)
            elif kind == "cache_key" and cache is not None:
                cache.use(message.cache_key)

        joining = replace(self._joining, name=identity.device)
        said = Said(self._hello, self._status, self._tell_what_is, hear)
        connection = self._connection = Connection(self._store, joining, self._outbox, sender, said)
        sender.start()
        loops = (
            connection.run(identity),
            assignments.run(),
            measuring.run(),
            tuning.run(),
            windows.run(),
            helping.run(),
            caring.run(),
            samples.run(),
            *(() if cache is None else (cache.run(),)),
        )
        await _together(loops)

    def _samples(self, serving: Serving) -> SampleSending:
        folder = self._options.data_dir / "samples"

        async def apply(project: str, policy: dict[str, Any] | None) -> None:
            told = {"policy": policy, "folder": str(folder), "redact": self._options.redact}
            await serving.sample(project, told if policy is not None else None)

        waiting = SampleFolder(folder, self._options.redact)
        return SampleSending(waiting, Courier(self._store), apply, self._options.samples)

    async def _confirm(self) -> None:
        """Say that this version of the agent works, so that no start of it leads back to the one before; and rest."""
        await asyncio.sleep(STEADY_SECONDS)
        give_back()
        confirm_start()

    async def _stop(self, serving: Serving) -> None:
        worker, memory = serving.active, self._memory
        if worker is not None and worker.alive and worker.wish.bundle == memory.state.active.bundle:
            # It did not end by itself.
            memory.remember(plan.steady(memory.state))
        await serving.close()
        if self._sender is not None:
            self._sender.stop()

    def _open(self, port: int) -> Serving:
        def keep(wish: Wish, counted: dict[str, Any]) -> None:
            if self._windows is not None:
                self._windows.put(wish, counted)

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
                if not self._memory.state.active.bundle:
                    raise
                count += 1
                await wait_refused(str(error), count, self._random)

    # What the hub hears of it.

    async def _hello(self) -> agent_pb2.Hello:
        inventory = await self._prober.recent()
        return agent_pb2.Hello(
            inventory=inventory,
            agent_version=running_version(),
            boot_id=self._boot.id,
            status=self._status(),
            knows_shadows=True,
            knows_tuning=self._options.tuning,
        )

    def _status(self) -> agent_pb2.AgentStatus:
        assert self._serving is not None
        worker = self._answering()
        state, care = self._memory.state, self._store.care()
        problem = self._caring.problem if self._caring else switched_back()
        return agent_pb2.AgentStatus(
            generation=state.generation,
            active_bundle=worker.wish.bundle if worker else "",
            serving_url=f"http://127.0.0.1:{self._serving.port}" if worker else "",
            message=sentence(problem, state.message),
            active_engine=worker.choice.target if worker else "",
            restarts=care.restarts,
            profiles=care.profiles,
            upgrades=care.upgrades,
            upgrade_problem=problem,
        )

    def _answering(self) -> Worker | None:
        """Return the worker that clients get their answers from, if one is alive."""
        worker = self._serving.active if self._serving is not None else None
        return worker if worker is not None and worker.alive else None

    async def _profile(self, number: int, measuring: Measuring) -> None:
        """Probe the machine again, time what is served, and tell the hub."""
        told = agent_pb2.Profile(number=number, inventory=await self._prober.now())
        # What answers now, as the hub was told: it may be on its way to be what is remembered as good.
        worker = self._answering()
        if worker is not None:
            told.bundle, told.engine = worker.wish.bundle, worker.choice.target
            request = profile_request(number, worker.wish, told.engine.partition("/")[0])
            told.measurement.CopyFrom(await measuring.measure(request))
        self._outbox.send(profile=told)

    def _tell_build(self, record: Record) -> None:
        """Tell the hub; all are told again when it is back."""
        if self._outbox.is_open:
            self._outbox.send(device_build=device_build(record))

    def _tell_what_is(self) -> None:
        """Tell a hub that was just greeted what is not in the greeting."""
        if self._cache is not None:
            self._cache.tell()
        for record in self._engines.records:
            self._tell_build(record)

    def _tell(self, step: Step | None = None, state: str = "", message: str = "") -> None:
        """Report what upkeep did, and that what is served has changed."""
        if step is not None:
            self._reports.tell(step, state, message)
        if self._connection is not None:
            self._connection.tell_status()


async def _together(loops: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Work until all have ended, or one has failed; leave none behind."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    waiting = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
    finally:
        await _ended(tasks)


async def _ended(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Cancel the tasks until all have ended: before Python 3.12 asyncio.wait_for loses a cancellation that comes as what it waits for does."""
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # The first one is raised; asyncio would tell of others as forgotten.


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


async def run(options: Options) -> bool:
    """Run an agent until SIGINT or SIGTERM. Raises AgentError where it cannot go on; returns whether it shall start anew."""
    use_one_arena()
    options.limits.apply_cpus()
    agent = Agent(options)
    logging.getLogger().addHandler(agent.journal)
    alive = asyncio.ensure_future(keep_alive())
    working = asyncio.ensure_future(agent.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, working.cancel)
    anew = False
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await working
    except StartAnew as wanted:
        logging.getLogger(__name__).info("%s", wanted)
        anew = True
    finally:
        alive.cancel()
        logging.getLogger().removeHandler(agent.journal)
        if not anew:
            # To a supervisor that hears nothing, this process goes on.
            notify("STOPPING=1")
    # Stopped by an operator, here or from afar: no start that failed.
    confirm_start()
    return anew
