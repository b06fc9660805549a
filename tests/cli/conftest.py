"""The command line against a real gRPC server with real services, filled and empty."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.accounts.gate import Gate
from milonga_hub.accounts.owners import Owners
from milonga_hub.accounts.rpc import AccountRpc
from milonga_hub.alerts.rpc import AlertRpc
from milonga_hub.builds.rpc import BuildRpc
from milonga_hub.cli import main
from milonga_hub.datasets.rpc import DatasetRpc
from milonga_hub.devices.rpc import DeviceRpc
from milonga_hub.hubs.rpc import HubRpc
from milonga_hub.labelling.rpc import LabellingRpc
from milonga_hub.models.rpc import ModelRpc
from milonga_hub.projects.models import Project
from milonga_hub.projects.rpc import ProjectRpc
from milonga_hub.rollouts.rpc import RolloutRpc
from milonga_hub.runs.exports import RunExports
from milonga_hub.runs.models import Run, Trigger
from milonga_hub.runs.rpc import RunRpc
from milonga_hub.telemetry.rpc import TelemetryRpc
from milonga_hub.transports.grpc import serve, server_credentials
from milonga_hub.uploads import Uploads
from milonga_hub.webhooks.rpc import WebhookRpc

from tests.web.filled import Services, filled


def _servicers(hub: Services, scheme: str) -> list[Any]:
    def start(project: str, reason: str, request_id: str) -> Run:
        return hub.runs.start(project, Trigger.APPLY, reason, request_id)

    def project_of(version: str) -> Project:
        return hub.projects.get(hub.models.get_version(version).run.split("/")[1])

    return [
        DeviceRpc(hub.devices, hub.events),
        DatasetRpc(hub.datasets, hub.folder / "uploads"),
        ProjectRpc(hub.projects, start, hub.quotas.usage, hub.triggers.due_run),
        RunRpc(
            hub.runs,
            hub.events,
            RunExports(hub.runs, hub.datasets, hub.models, hub.builds, hub.blobs, hub.folder / "runs"),
        ),
        ModelRpc(
            hub.models,
            hub.builds,
            hub.imports,
            Uploads(hub.folder / "uploads-models", 64 << 20, "file", ""),
        ),
        BuildRpc(hub.builds, hub.events),
        RolloutRpc(hub.rollouts, hub.events, project_of),
        TelemetryRpc(hub.telemetry, hub.events),
        AlertRpc(hub.alerts),
        LabellingRpc(hub.labelling),
        AccountRpc(hub.accounts),
        WebhookRpc(hub.webhooks),
        HubRpc(hub.hubs, scheme),
    ]


@contextmanager
def served(hub: Services, scheme: str = "http") -> Iterator[str]:
    """Serve the services in a thread with its own loop, and yield the address."""
    started = threading.Event()
    found: list[Any] = []

    async def run() -> None:
        credentials = server_credentials(hub.devices.authority.server())
        server, port = await serve(
            _servicers(hub, scheme),
            "127.0.0.1",
            0,
            credentials,
            gate=Gate(hub.accounts, Owners(hub.projects, hub.rollouts, hub.alerts)),
        )
        ending = asyncio.Event()
        found.extend((port, asyncio.get_running_loop(), ending))
        started.set()
        await ending.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(60), "the server did not start"
    port, loop, ending = found
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(60)


@dataclass(frozen=True)
class Said:
    """What one verb answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """Runs verbs against one hub."""

    address: str
    hub: Services
    run: Callable[[list[str]], Said]

    def __call__(self, *arguments: str) -> Said:
        return self.run(["--hub", self.address, *arguments])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], Said]:
    """Return a function that runs the command line as its user would, without a new process."""

    def run(arguments: list[str]) -> Said:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="package")
def filled_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Services]]:
    hub = filled(tmp_path_factory.mktemp("cli"))
    with served(hub) as address:
        yield address, hub


@pytest.fixture(scope="package")
def empty_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Services]]:
    hub = Services(tmp_path_factory.mktemp("cli-empty"))
    with served(hub) as address:
        yield address, hub


@pytest.fixture
def cli(filled_hub: tuple[str, Services], run: Callable[[list[str]], Said]) -> Cli:
    return Cli(*filled_hub, run)


@pytest.fixture
def empty(empty_hub: tuple[str, Services], run: Callable[[list[str]], Said]) -> Cli:
    return Cli(*empty_hub, run)


@pytest.fixture
def new(tmp_path: Path, run: Callable[[list[str]], Said]) -> Iterator[Cli]:
    """Return the command line of an empty hub for this test alone."""
    (tmp_path / "hub").mkdir()
    hub = Services(tmp_path / "hub")
    with served(hub) as address:
        yield Cli(address, hub, run)
