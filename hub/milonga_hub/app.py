"""The composition root: the only file that knows everything."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import resource
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from milonga_compiler.files import write_atomically

from milonga_hub import fencing, holding, logs, tracing
from milonga_hub.accounts.gate import Gate
from milonga_hub.accounts.owners import Owners
from milonga_hub.accounts.rpc import AccountRpc
from milonga_hub.accounts.service import AccountService
from milonga_hub.alerts.facts import Observer
from milonga_hub.alerts.rpc import AlertRpc
from milonga_hub.alerts.service import AlertService
from milonga_hub.blobs import places
from milonga_hub.blobs.watching import BlobWatch
from milonga_hub.builds.device_tuning import DeviceTunings
from milonga_hub.builds.rpc import BuildRpc
from milonga_hub.builds.runner import BuildRunner
from milonga_hub.builds.service import BuildService
from milonga_hub.builds.sessions import TuningSessions
from milonga_hub.cluster import workers
from milonga_hub.collecting import leave_what_stays
from milonga_hub.datasets.rpc import DatasetRpc
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.devices.known_bundles import KnownBundles
from milonga_hub.devices.rpc import AgentRpc, DeviceAddress, DeviceRpc, EnrolmentRpc
from milonga_hub.devices.service import DeviceService, Presence, nobody_else
from milonga_hub.errors import DatabaseUnreachable, FailedPrecondition, InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.fencing import LeadLost
from milonga_hub.hubs import service as hubs
from milonga_hub.hubs.between import Between
from milonga_hub.hubs.rpc import HubRpc
from milonga_hub.hubs.service import Membership
from milonga_hub.install.reach import address_for_others
from milonga_hub.install.releases import AgentReleases
from milonga_hub.jobs import Jobs
from milonga_hub.labelling.intake import SampleIntake
from milonga_hub.labelling.rpc import LabellingRpc, SampleReceiver
from milonga_hub.labelling.service import LabellingService
from milonga_hub.models.imports import ModelImports
from milonga_hub.models.rpc import ModelRpc
from milonga_hub.models.service import ModelService
from milonga_hub.projects.models import Project
from milonga_hub.projects.rpc import ProjectRpc
from milonga_hub.projects.service import ProjectService
from milonga_hub.quotas.service import QuotaService
from milonga_hub.rollouts.needs import Requests
from milonga_hub.rollouts.rpc import RolloutRpc
from milonga_hub.rollouts.rules_requests import requests_of
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.executor import Executor
from milonga_hub.runs.exports import RunExports
from milonga_hub.runs.models import Run, Trigger
from milonga_hub.runs.pipeline import carry_out
from milonga_hub.runs.rpc import RunRpc
from milonga_hub.runs.service import RunService
from milonga_hub.runs.triggers import Triggers
from milonga_hub.runs.work import Services, Work
from milonga_hub.search.service import SearchService
from milonga_hub.settings import Settings
from milonga_hub.signing.service import SigningService
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.telemetry.intake import TelemetryIntake
from milonga_hub.telemetry.retention import Keeper
from milonga_hub.telemetry.rpc import TelemetryRpc
from milonga_hub.telemetry.rules_retention import Retention
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.tracking import mlflow
from milonga_hub.tracking.service import Tracking
from milonga_hub.transfers.service import TransferService
from milonga_hub.transports import brokers
from milonga_hub.transports import grpc as grpc_transport
from milonga_hub.transports import http as http_transport
from milonga_hub.transports.https import Certificate
from milonga_hub.uploads import Uploads
from milonga_hub.webhooks.rpc import WebhookRpc
from milonga_hub.webhooks.service import WebhookService
from milonga_hub.webhooks.sight import Sight

_log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
# Half a million devices; some systems set no limit, and programs that the hub starts go through them all.
_MOST_FILES = 1 << 20


@dataclass(frozen=True)
class Addresses:
    """Where a running hub listens, as "host:port"."""

    http: str
    grpc: str
    device: str
    mqtt: str


class Hub:
    """Everything of one hub. `async with hub.running(): ...` serves until the block ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.https = _certificate(settings)
        self.folder = _usable_folder(settings.data_dir)
        if not settings.database_url:
            _keep_private(self.folder / "milonga.db")
        self.database = Database(settings.resolved_database_url)
        self._lock = _lock(self.folder, alone=not self.database.is_postgresql)
        self.own_folder, self._own = holding.own(self.folder)
        try:
            with holding.beginning(self.folder):
                self.hubs = hubs.of(self.database)
                try:
                    self._assemble(settings)
                except BaseException:
                    self.hubs.leave()
                    raise
        except BaseException:
            os.close(self._own)
            os.close(self._lock)
            raise

    def _assemble(self, settings: Settings) -> None:
        self.database.create_tables()
        self.hubs.enter(folder=_folder_id(self.folder), broker=settings.broker if "://" in settings.broker else "")
        self.events = EventBus()
        self.news = Between(self.database, self.events, self.hubs) if isinstance(self.hubs, Membership) else None
        stores = self._open_stores()
        self.blobs = stores.blobs
        self.blob_watch = BlobWatch(self.blobs)
        self.devices = DeviceService(
            self.database,
            self.events,
            settings,
            presence=Presence(self.hubs.id, self.hubs.alive),
            announce=self.news.announce if self.news else nobody_else,
        )
        self.transfers = TransferService(self.blobs, self.own_folder / "deltas", settings)
        self.accounts = AccountService(self.database, self.folder, self.devices.authority.fingerprint, settings)
        self.datasets = DatasetService(self.database, self.blobs, self.events)
        self.datasets.likenesses.folder = self.own_folder / "likeness"
        self.projects = ProjectService(self.database, self.events, self.datasets)
        self.samples = SampleIntake(self.database, self.events, self.devices, self.projects, stores.pictures)
        self.labelling = LabellingService(
            self.database, self.events, self.projects, self.datasets, self.blobs, self.samples
        )
        self.models = ModelService(self.database, self.blobs)
        self.devices.may_pin(self.models.get_version)
        self.signing = SigningService(self.folder / "signing")
        self.devices.offer_release(AgentReleases(self.folder / "agent_release.json", self.blobs, self.signing).current)
        self.builds = BuildService(self.database, self.blobs, self.events, self.signing)
        self.rollouts = RolloutService(self.database, self.events, self.devices, self.builds, asked=self._asked)
        self.runs = RunService(self.database, self.events, self.projects)
        self.imports = ModelImports(self.projects, self.datasets, self.runs, self.blobs, self.own_folder / "imports")
        self.quotas = QuotaService(
            settings.quotas, self.projects, self.datasets, self.samples, self.builds, self.devices, self.runs
        )
        self.quotas.stand_at_doors()
        self.run_exports = RunExports(
            self.runs, self.datasets, self.models, self.builds, self.blobs, self.folder / "runs"
        )
        self.search = SearchService(self.database, self.devices)
        self.telemetry = TelemetryService(
            self.database,
            self.events,
            reference_of=self.builds.reference,
            policy_of=lambda project: self.projects.get(project).spec.retraining.drift_policy,
            served_as=KnownBundles(self.database).served_as,
        )
        kept = Retention(settings.telemetry_raw_days, settings.telemetry_minute_days, settings.telemetry_days)
        self.telemetry_keeper = Keeper(self.database, self.telemetry.totals, self.telemetry.quarters, kept)
        self.triggers = Triggers(
            self.events, self.projects, self.datasets, self.devices, self.telemetry, self.labelling, self.runs
        )
        observer = Observer(
            self.devices, self.projects, self.runs, self.rollouts, self.telemetry, settings.telemetry_seconds
        )
        # Names this hub in the events that it sends.
        source = f"urn:milonga:hub:{self.devices.authority.fingerprint.removeprefix('sha256:')}"
        self.alerts = AlertService(self.database, self.events, observer, source=source)
        sight = Sight(self.runs, self.rollouts, self.builds, self.devices, self.datasets, self.projects, self.alerts)
        self.webhooks = WebhookService(self.database, self.events, sight, source)
        self.executor = Executor(self.runs, self._work)
        self.jobs = Jobs(workers.chosen(settings))
        sessions = TuningSessions(self.folder / "tuning", self.blobs, self.signing)
        self.builds.device_tunings = DeviceTunings(sessions, self.devices)
        self.build_runner = BuildRunner(self.builds, self.devices, self.folder / "builds", self.jobs)
        self.addresses = Addresses("", "", "", "")
        self._intake: TelemetryIntake | None = None
        self._endpoint: BrokerEndpoint | None = None
        self._tracker: Tracking | None = None
        if self.news:
            self.news.connect(self.devices, self.runs, self.builds)

    def _open_stores(self) -> places.Stores:
        url = places.settled(self.folder, self.settings.blobs)
        cache = self.own_folder / places.CACHE
        stores = places.open_stores(self.folder, url, self.settings.blob_cache_bytes, cache)
        stores.prepare()
        # Only now: a place that never answered is not where blobs are.
        places.record(self.folder, url)
        return stores

    @property
    def grpc_port(self) -> int:
        """Return the port that devices join at; raises FailedPrecondition while the hub starts."""
        if not self.addresses.grpc:
            raise FailedPrecondition("the hub is starting; ask again in a second")
        return int(self.addresses.grpc.rpartition(":")[2])

    @property
    def set_up_link(self) -> str:
        """Return the address with which a browser makes the first account, as others reach it; "" once there is one."""
        path = self.accounts.set_up_path
        return f"{self._web_address()}{path}" if path else ""

    @property
    def scheme(self) -> str:
        """Return what addresses of pages begin with."""
        return "https" if self.https else "http"

    def _web_address(self) -> str:
        """Return where others reach the pages."""
        port = self.addresses.http.rpartition(":")[2]
        address, _ = address_for_others(f"127.0.0.1:{port}", self.settings.host)
        return f"{self.scheme}://{address}"

    def _asked(self, project: str, since: datetime, until: datetime) -> dict[str, Requests]:
        """Return what the devices of a project were asked, by version."""
        counted = self.telemetry.requests_by_version(project, since, until)
        return {version: requests_of(minutes) for version, minutes in counted.items()}

    def _project_of(self, model_version: str) -> Project:
        """Return the project whose run made the version: projects/{project}/runs/{number}."""
        return self.projects.get(self.models.get_version(model_version).run.split("/")[1])

    async def _work(self, run: Run) -> str:
        services = Services(
            events=self.events,
            blobs=self.blobs,
            folder=self.folder / "runs",
            datasets=self.datasets,
            devices=self.devices,
            models=self.models,
            builds=self.builds,
            rollouts=self.rollouts,
            runs=self.runs,
            search=self.search,
            jobs=self.jobs,
        )
        with tracing.span("run", run=run.name):
            return await carry_out(Work(services, run))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Addresses]:
        """Serve HTTP, gRPC and MQTT and keep the loop going; everything has stopped when the block ends."""
        self._tracker = self._tracking()
        self._prepare_signing()
        async with AsyncExitStack() as stack:
            stack.callback(tracing.start(self.settings.traces_endpoint))
            stack.push_async_callback(self._hear_no_telemetry)
            mqtt = await self._serve_mqtt(stack)
            if self.news:
                self.news.start()
                stack.callback(self.news.stop)
            # HTTP needs no order, but a device that joins needs the addresses of the others.
            http = await self._serve_http(stack)
            device, grpc = await self._serve_grpc(stack, mqtt)
            host = self.settings.host
            self.addresses = Addresses(f"{host}:{http}", f"{host}:{grpc}", f"{host}:{device}", f"{mqtt[0]}:{mqtt[1]}")
            self.hubs.listens_at(self.addresses.http, self.addresses.grpc, self.addresses.device)
            stack.callback(self.hubs.leave)
            loops = [self.devices.watch_heartbeats, self.samples.run, *([self.https.follow] if self.https else [])]
            for loop in (*(_lasting(loop) for loop in loops), self._among_hubs):
                stack.push_async_callback(_stop, _begun(loop))
            known = self.folder / "hub.json"
            about = {"scheme": self.scheme, "fingerprint": self.devices.authority.fingerprint, "pid": os.getpid()}
            said = json.dumps({**asdict(self.addresses), **about})
            write_atomically(known, said)
            stack.callback(_forget, known, said)
            yield self.addresses

    async def _among_hubs(self) -> None:
        await self.hubs.run(self._lead)

    async def _lead(self) -> None:
        """Do what one hub does for all, until cancelled."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._hear_no_telemetry)
            loops = (
                self._hear_telemetry_lastingly,
                self.rollouts.run,
                self.executor.run,
                self.build_runner.run,
                self.triggers.run,
                self.labelling.run,
                self.alerts.run,
                self.telemetry_keeper.run,
                self.alerts.deliveries.run,
                self.webhooks.watch,
                self.webhooks.run,
                self.accounts.audit.run,
                *([self.news.tidy] if self.news else []),
                *([self._tracker.run] if self._tracker else []),
            )
            for loop in loops:
                stack.push_async_callback(_stop, _begun(_lasting(loop)))
            await asyncio.get_running_loop().create_future()

    async def _hear_telemetry(self) -> None:
        """Take in telemetry from now on. Raises FailedPrecondition where the broker does not answer."""
        assert self._endpoint is not None
        self.telemetry.begin()
        intake = TelemetryIntake(
            # Its threads are none of this task's.
            fencing.kept(self.telemetry.store),
            self.telemetry.examine,
            self.telemetry.refusals,
            is_shut_out=self.devices.is_shut_out,
        )
        await intake.start(self._endpoint)
        self._intake = intake

    async def _hear_telemetry_lastingly(self) -> None:
        while self._intake is None:
            try:
                await self._hear_telemetry()
            except FailedPrecondition as error:
                _log.error("%s; trying again", error)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _hear_no_telemetry(self) -> None:
        intake, self._intake = self._intake, None
        if intake is not None:
            await intake.stop()

    def _tracking(self) -> Tracking | None:
        """Return what tells MLflow of runs, where one is named."""
        if not self.settings.mlflow:
            return None
        return Tracking(
            self.events,
            self.runs,
            self.models,
            self.builds,
            self.folder / "runs",
            self.devices.authority.fingerprint,
            self._web_address,
            mlflow.store(self.settings.mlflow),
        )

    def _prepare_signing(self) -> None:
        if self.signing.prepare():
            _log.warning(
                "made the keys that sign builds; those of root and targets are in %s too: milonga keys export --help tells how"
                " to keep them elsewhere",
                self.signing.ring.folder,
            )
        self.builds.sign_all()

    async def _serve_mqtt(self, stack: AsyncExitStack) -> tuple[str, int]:
        """Return host and port at which devices reach the broker."""
        settings = self.settings
        choice = brokers.chosen(
            settings, self.devices.authority, self.devices.authenticate, self.devices.certificates, _warn_of_shut_out
        )
        endpoint = await choice.broker.start(settings.host, settings.mqtt_port, settings.server_names)
        _log.info("MQTT broker: %s, because %s", choice.broker.name, choice.why)
        self.devices.on_shut_out(choice.broker.disconnect)
        stack.push_async_callback(choice.broker.stop)
        self._endpoint = endpoint
        if self.hubs.leads:
            # Who starts a hub is told at once where the broker does not answer; who leads later tries again.
            with fencing.within(self.hubs.fence):
                await self._hear_telemetry()
            if self.news:
                # Another may lead before this hub has begun to: what is heard is written for one term.
                await self._hear_no_telemetry()
        return brokers.told_to_devices(settings, endpoint)

    async def _serve_grpc(self, stack: AsyncExitStack, mqtt: tuple[str, int]) -> tuple[int, int]:
        """Serve devices with a certificate on one port, people and machines that join on another; return both."""
        settings = self.settings
        identity = self.devices.authority.server(settings.server_names)
        devices_only = grpc_transport.server_credentials(identity, devices_only=True)
        server, device_port = await grpc_transport.serve(
            [AgentRpc(self.devices, self.transfers, self.signing, SampleReceiver(self.samples))],
            settings.host,
            settings.device_port,
            devices_only,
            "--device-port",
            gate=None,
        )
        stack.push_async_callback(server.stop, 1.0)
        servicers = [
            DeviceRpc(self.devices, self.events),
            EnrolmentRpc(self.devices, lambda: DeviceAddress(device_port, *mqtt)),
            DatasetRpc(self.datasets, self.own_folder / "uploads", settings.max_upload_bytes),
            ProjectRpc(self.projects, self._start_applied, self.quotas.usage, self.triggers.due_run),
            RunRpc(self.runs, self.events, self.run_exports),
            ModelRpc(
                self.models,
                self.builds,
                self.imports,
                Uploads(self.own_folder / "uploads-models", settings.max_upload_bytes, "file", ""),
            ),
            BuildRpc(self.builds, self.events),
            RolloutRpc(self.rollouts, self.events, self._project_of),
            TelemetryRpc(self.telemetry, self.events),
            AlertRpc(self.alerts),
            LabellingRpc(self.labelling),
            AccountRpc(self.accounts),
            WebhookRpc(self.webhooks),
            HubRpc(self.hubs, self.scheme),
        ]
        server, port = await grpc_transport.serve(
            servicers,
            settings.host,
            settings.grpc_port,
            grpc_transport.server_credentials(identity),
            gate=Gate(self.accounts, Owners(self.projects, self.rollouts, self.alerts)),
        )
        stack.push_async_callback(server.stop, 1.0)
        return device_port, port

    async def _serve_http(self, stack: AsyncExitStack) -> int:
        app = http_transport.create_app(self)
        server, port = await http_transport.serve(app, self.settings.host, self.settings.http_port, self.https)
        stack.push_async_callback(server.stop)
        return port

    def _start_applied(self, project: str, reason: str, request_id: str) -> Run:
        return self.runs.start(project, Trigger.APPLY, reason, request_id)

    def close(self) -> None:
        """Let go of the data folder and the database."""
        self.hubs.leave()
        self.database.close()
        os.close(self._lock)
        os.close(self._own)


def _certificate(settings: Settings) -> Certificate | None:
    if settings.https_certificate is not None:
        return Certificate(settings.https_certificate, settings.https_key)
    if settings.https_key is not None:
        raise InvalidInput(f"--https-key {settings.https_key} is of no use alone; name its --https-certificate too")
    return None


def _begun(loop: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    task = asyncio.create_task(loop(), name=getattr(loop, "__qualname__", ""))
    task.add_done_callback(_die_with)
    return task


def _lasting(loop: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a loop that begins again where the database was away, or another hub leads by now and this one shall stop."""

    @functools.wraps(loop)
    async def last() -> None:
        while True:
            try:
                return await loop()
            except (DatabaseUnreachable, LeadLost) as error:
                _log.warning("%s has to wait: %s", loop.__qualname__, error)
                await asyncio.sleep(_AGAIN_SECONDS)

    return last


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _warn_of_shut_out(device: str) -> None:
    _log.warning(
        "%s is shut out, and what it sends is dropped; let the broker refuse its certificate too: milonga broker revoked",
        device,
    )


def _die_with(task: asyncio.Task[None]) -> None:
    """End the hub when one of its loops has died of a fault: half a hub would look alive and do nothing."""
    if not task.cancelled() and task.exception() is not None:
        _log.critical("%s failed; the hub stops", task.get_name(), exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


def _usable_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidInput(
            f"cannot write to the data folder {folder}: {error.strerror}; choose another with --data-dir"
        ) from error
    return folder


def _keep_private(database: Path) -> None:
    """Let only the hub's user read the database, with the hashes of passwords; SQLite gives its other files the same mode."""
    database.touch(mode=0o600)
    for path in (database, *database.parent.glob(f"{database.name}-*")):
        path.chmod(0o600)


def _forget(known: Path, said: str) -> None:
    """Remove what the hub said of itself, unless another one has said it of itself since."""
    with contextlib.suppress(OSError):
        if known.read_text(encoding="utf-8") == said:
            known.unlink()


def _folder_id(folder: Path) -> str:
    """Return what tells this data folder from others, wherever it is mounted."""
    path = folder / "folder.id"
    if not path.exists():
        write_atomically(path, secrets.token_hex(16))
    return path.read_text(encoding="utf-8").strip()


def _lock(folder: Path, *, alone: bool) -> int:
    """Hold the folder for this process alone, or with the other hubs of its database."""
    descriptor = holding.hold(folder, alone=alone)
    if descriptor is None:
        raise FailedPrecondition(
            f"another hub is using the data folder {folder}; stop it, or choose another with --data-dir"
        )
    return descriptor


async def _serve(settings: Settings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    hub = Hub(settings)
    try:
        async with hub.running() as addresses:
            print(f"Milonga is up. Dashboard: {hub.scheme}://{addresses.http}", flush=True)
            if hub.set_up_link:
                print(f"Make the first account there: {hub.set_up_link}", flush=True)
            print(
                f"gRPC {addresses.grpc}, for devices {addresses.device} and MQTT {addresses.mqtt}, data in {hub.folder}.",
                flush=True,
            )
            print(f"This hub is {hub.devices.authority.fingerprint}. Ctrl-C stops it.", flush=True)
            leave_what_stays()
            await ended.wait()
            print("Stopping; what is in progress goes on at the next start.", flush=True)
    finally:
        hub.close()


def main(settings: Settings) -> int:
    """Run a hub until Ctrl-C or SIGTERM. Returns the exit code; raises MilongaError where it cannot start."""
    logs.start(settings.log_format)
    _allow_connections()
    asyncio.run(_serve(settings))
    return 0


def _allow_connections() -> None:
    """Take as many open files as the system allows: each device has two connections, and most systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
