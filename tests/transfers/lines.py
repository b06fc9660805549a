"""A hub with files for one device, the device's side of the line, and a proxy with faults between them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from milonga.v1 import agent_pb2
from milonga_agent.cache import Cache, CacheOptions
from milonga_agent.hub import Courier
from milonga_agent.keys import KEY
from milonga_agent.outbox import Outbox
from milonga_agent.plan import WantedFile, Wish
from milonga_agent.state import Identity, Store
from milonga_agent.steps import Depot
from milonga_hub.devices.models import File

from tests.devices.world import Agent, World, hub
from tests.transports.fault_proxy import NO_FAULT, Fault, FaultProxy, faults


@dataclass
class Line:
    """One device that is assigned bundles and fetches them."""

    world: World
    proxy: FaultProxy
    device: Agent
    folder: Path

    def __post_init__(self) -> None:
        self.depot = Depot(self.folder)
        self.courier = self.dial()

    def dial(self, max_kbps: float = 0.0, keepalive_seconds: float = 30.0) -> Courier:
        """Return a line of its own."""
        return Courier(self.store(), max_kbps, keepalive_seconds)

    def store(self) -> Store:
        """Return what the device keeps of who it is."""
        store = Store(self.folder)
        store.keep_authority(self.world.tls.authority.certificate.decode())
        store.keep_certificate(self.device.certificate)
        (self.folder / KEY).write_bytes(self.device.key.pem)
        hub = f"127.0.0.1:{self.world.port}"
        store.keep_identity(Identity(self.device.name, "board-1", hub, self.proxy.port, "127.0.0.1", 1))
        return store

    def assign(self, contents: Mapping[str, bytes], version: int = 1, project: str = "digits") -> Wish:
        """Want the device to have a bundle of these files."""
        files = [self.world.file(content, path) for path, content in contents.items()]
        manifest = {"project": project, "version": version, "files": [file.model_dump() for file in files]}
        files.append(self.world.file(json.dumps(manifest).encode(), "manifest.json"))
        name = f"models/{project}/versions/{version}"
        generation = self.world.devices.assign(
            self.device.name, files[-1].digest, files, name, project, "onnxruntime/fp32"
        )
        wanted = tuple(_wanted(file) for file in files)
        return Wish(generation, files[-1].digest, wanted, name, project)


def _wanted(file: File) -> WantedFile:
    return WantedFile(file.path, file.digest, file.size_bytes)


@asynccontextmanager
async def line(folder: Path, fault_of: Callable[[int], Fault] = lambda _: NO_FAULT) -> AsyncIterator[Line]:
    async with hub(folder / "hub") as world, Agent(world, "pi-1") as device:
        await device.enrol()
        async with faults(world.device_port, fault_of) as proxy:
            yield Line(world, proxy, device, folder / "agent")


@asynccontextmanager
async def cache(line: Line, kbps: float = 0.0) -> AsyncIterator[Cache]:
    """Let the device serve its neighbours by a process of its own; it is connected, and the hub knows of it."""
    outbox, ready = Outbox(), asyncio.Event()
    said = outbox.open(agent_pb2.Hello())
    await said.get()
    serving = Cache(line.store(), line.depot.blobs, CacheOptions("127.0.0.1", 0, kbps), outbox)

    async def speak() -> None:
        while True:
            await line.device.stream.write(await said.get())

    async def hear() -> None:
        while True:
            message = await line.device.stream.read()
            if message.WhichOneof("message") == "cache_key":
                serving.use(message.cache_key)
                ready.set()

    running = [asyncio.ensure_future(each) for each in (serving.run(), speak(), hear())]
    try:
        await ready.wait()
        yield serving
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def noise(size_bytes: int) -> bytes:
    """Return bytes that nothing makes smaller, the same every time."""
    return hashlib.shake_256(b"noise").digest(size_bytes)
