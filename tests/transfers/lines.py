"""A hub with files for one device, the device's side of the line, and a proxy with faults between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from milonga_agent.hub import Courier
from milonga_agent.keys import KEY
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
        store = Store(self.folder)
        store.keep_authority(self.world.tls.authority.certificate.decode())
        store.keep_certificate(self.device.certificate)
        (self.folder / KEY).write_bytes(self.device.key.pem)
        hub = f"127.0.0.1:{self.world.port}"
        store.keep_identity(Identity(self.device.name, "board-1", hub, self.proxy.port, "127.0.0.1", 1))
        return Courier(store, max_kbps, keepalive_seconds)

    def assign(self, contents: Mapping[str, bytes], version: int = 1, project: str = "digits") -> Wish:
        """Want the device to have a bundle of these files."""
        files = [self.world.file(content, path) for path, content in contents.items()]
        manifest = {"project": project, "version": version, "files": [file.model_dump() for file in files]}
        files.append(self.world.file(json.dumps(manifest).encode(), "manifest.json"))
        name = f"models/{project}/versions/{version}"
        generation = self.world.devices.assign("pi-1", files[-1].digest, files, name, project, "onnxruntime/fp32")
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


def noise(size_bytes: int) -> bytes:
    """Return bytes that nothing makes smaller, the same every time."""
    return hashlib.shake_256(b"noise").digest(size_bytes)
