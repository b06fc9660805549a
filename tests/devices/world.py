"""A real hub for devices (gRPC server, SQLite, blobs) and a scripted agent that talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
from milonga.v1 import agent_pb2, agent_pb2_grpc, common_pb2, devices_pb2, devices_pb2_grpc
from milonga_hub.blobs import BlobStore
from milonga_hub.db import Database
from milonga_hub.devices.models import Device, File
from milonga_hub.devices.rpc import AgentRpc, DeviceAddress, DeviceRpc, EnrolmentRpc, Samples
from milonga_hub.devices.service import DeviceService, MeasuringPolicy
from milonga_hub.events import EventBus
from milonga_hub.settings import Settings
from milonga_hub.transfers.service import TransferService
from milonga_hub.transports.grpc import serve

from tests.certificates import Key, Tls
from tests.databases import database_setting
from tests.signing.ready import signing

T = TypeVar("T")

KEYS: dict[str, Key] = {}
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def run(test: Coroutine[Any, Any, T], seconds: float = 60) -> T:
    """Run an async test; one that hangs fails."""

    async def within() -> T:
        async with asyncio.timeout(seconds):
            return await test

    return asyncio.run(within())


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class World:
    """One running hub, as far as devices are concerned."""

    def __init__(self, folder: Path, policy: MeasuringPolicy | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock()
        self.settings = Settings(data_dir=folder, database_url=database_setting(folder), grpc_port=0)
        self.events = EventBus()
        self.database = Database(self.settings.resolved_database_url)
        self.database.create_tables()
        self.blobs = BlobStore(folder / "blobs")
        # However busy the machine is, deltas are waited for.
        self.transfers = TransferService(self.blobs, folder / "deltas", self.settings, delta_seconds=50.0)
        self.tls = Tls(folder / "authority")
        self.devices = DeviceService(self.database, self.events, self.settings, self.clock, policy, self.tls.authority)
        self.signing = signing(folder / "signing")
        # What agents get for metadata; an attacker may serve something else.
        self.metadata: Callable[[str], bytes] = self.signing.metadata
        # What takes pictures of devices; most tests need none.
        self.samples: Samples | None = None
        self.port = self.device_port = 0

    def file(self, content: bytes, path: str = "model.onnx") -> File:
        return File(path=path, digest=self.blobs.put(content), size_bytes=len(content))

    def token(self, **choices: Any) -> str:
        return self.devices.create_join_token({}, **choices)[1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what events announce; a condition that never holds fails at the test's timeout."""
        with self.events.listen("") as events:
            while not condition():
                await events.next()

    async def until_device(self, name: str, condition: Callable[[Device], bool]) -> None:
        await self.until(lambda: condition(self.devices.get(name)))


class _Metadata:
    def __init__(self, world: World) -> None:
        self._world = world

    def metadata(self, name: str) -> bytes:
        return self._world.metadata(name)


@asynccontextmanager
async def hub(
    folder: Path,
    policy: MeasuringPolicy | None = None,
    samples: Callable[[World], Samples] | None = None,
) -> AsyncIterator[World]:
    world = World(folder, policy)
    if samples is not None:
        world.samples = samples(world)
    enrolment = EnrolmentRpc(world.devices, lambda: DeviceAddress(world.device_port, "127.0.0.1", 8883))
    servicers = [enrolment, DeviceRpc(world.devices, world.events)]
    server, world.port = await serve(servicers, "127.0.0.1", 0, world.tls.server(), gate=None)
    agents = [AgentRpc(world.devices, world.transfers, _Metadata(world), world.samples)]
    for_devices, world.device_port = await serve(agents, "127.0.0.1", 0, world.tls.server(devices_only=True), gate=None)
    try:
        yield world
    finally:
        await server.stop(None)
        await for_devices.stop(None)


@asynccontextmanager
async def people(world: World) -> AsyncIterator[devices_pb2_grpc.DeviceServiceAsyncStub]:
    async with world.tls.channel(f"127.0.0.1:{world.port}") as channel:
        yield devices_pb2_grpc.DeviceServiceStub(channel)


class Agent:
    """An agent whose every word is written in the test."""

    def __init__(self, world: World, name: str, key: Key | None = None, **inventory: Any) -> None:
        self.world = world
        self.name = name
        # A machine keeps its key over restarts.
        self.key = key or KEYS.setdefault(name, Key())
        self.boot_id = "boot-1"
        self.inventory = devices_pb2.Inventory(**{"board": "Board 1", "cores": 4, "machine_id": name, **inventory})
        self.certificate = ""
        self.stub: Any = None
        self.stream: Any = None
        self._channels: list[grpc.aio.Channel] = []

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    async def enrol(self, token: str | None = None, **fields: Any) -> agent_pb2.EnrolResponse:
        """Ask for a certificate, and use it from now on if there is one."""
        request = agent_pb2.EnrolRequest(
            **{
                "join_token": self.world.token() if token is None else token,
                "device": self.name,
                "inventory": self.inventory,
                "agent_version": "1.0",
                "certificate_request": self.key.request(),
                **fields,
            }
        )
        async with self.world.tls.channel(f"127.0.0.1:{self.world.port}") as channel:
            response: agent_pb2.EnrolResponse = await agent_pb2_grpc.EnrolmentServiceStub(channel).Enrol(request)
        if response.certificate:
            self.use(response.certificate)
        return response

    def use(self, certificate: str) -> None:
        """Call the hub with this certificate from now on."""
        self.certificate = certificate
        channel = self.world.tls.channel(f"127.0.0.1:{self.world.device_port}", self.key.pem, certificate)
        self._channels.append(channel)
        self.stub = agent_pb2_grpc.AgentServiceStub(channel)

    async def connect(self, generation: int = 0, bundle: str = "", **says: Any) -> Any:
        """Say hello and return the settings that the hub answers with."""
        self.stream = self.stub.Connect()
        status = agent_pb2.AgentStatus(generation=generation, active_bundle=bundle)
        about = {"inventory": self.inventory, "agent_version": "1.0", "boot_id": self.boot_id, "status": status}
        hello = agent_pb2.Hello(**{**about, **says})
        await self.stream.write(agent_pb2.ConnectRequest(hello=hello))
        return await self.hear("settings")

    async def join(self) -> Agent:
        await self.enrol()
        await self.connect()
        return self

    async def hear(self, kind: str) -> Any:
        """Return the next message, which must be of this kind."""
        message = await self.stream.read()
        assert message is not grpc.aio.EOF, "the hub ended the stream"
        assert message.WhichOneof("message") == kind, message
        return getattr(message, kind)

    async def heartbeat(self, generation: int = 0, bundle: str = "", ahead_seconds: float | None = None) -> None:
        """Give a sign of life, with a clock that is so far ahead of the hub's; None for an agent that does not tell."""
        beat = agent_pb2.Heartbeat(status=agent_pb2.AgentStatus(generation=generation, active_bundle=bundle))
        if ahead_seconds is not None:
            beat.sent_at.FromDatetime(self.world.clock.now + timedelta(seconds=ahead_seconds))
        await self.stream.write(agent_pb2.ConnectRequest(heartbeat=beat))

    async def answer(
        self, request: agent_pb2.MeasurementRequest, median_ms: float = 1.0, error: str = "", **conditions: Any
    ) -> None:
        latency = None if error else common_pb2.Percentiles(p50=median_ms, p90=median_ms, p99=median_ms, count=20)
        result = agent_pb2.MeasurementResult(id=request.id, error=error, latency_ms=latency, **conditions)
        await self.stream.write(agent_pb2.ConnectRequest(measurement=result))

    async def fetch(self, digest: str, offset_bytes: int = 0) -> list[bytes]:
        request = agent_pb2.FetchBlobRequest(digest=digest, offset_bytes=offset_bytes)
        return [each.chunk async for each in self.stub.FetchBlob(request)]
