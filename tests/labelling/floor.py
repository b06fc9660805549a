"""A hub that takes pictures of devices, a project for them, and devices that send whatever a test says."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from milonga.v1 import agent_pb2, labelling_pb2
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.service import DatasetService
from milonga_hub.labelling.intake import SampleIntake
from milonga_hub.labelling.models import QueuedSample, SampleState
from milonga_hub.labelling.rpc import SampleReceiver
from milonga_hub.labelling.service import LabellingService
from milonga_hub.projects.models import ProjectSpec, SamplingSpec
from milonga_hub.projects.service import ProjectService
from PIL import Image

from tests.devices.world import Agent, World, hub

CLASSES = ("bolt", "nut")


def picture(seed: int, size_px: int = 32, format_: str = "PNG") -> bytes:
    """Return a picture that looks like no other: noise in blocks that are seen from afar."""
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    packed = io.BytesIO()
    Image.fromarray(blocks).resize((size_px, size_px), Image.Resampling.NEAREST).save(packed, format_)
    return packed.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def header(data: bytes, **fields: Any) -> agent_pb2.SampleHeader:
    return agent_pb2.SampleHeader(
        **{
            "digest": digest(data),
            "size_bytes": len(data),
            "project": "parts",
            "reason": labelling_pb2.SAMPLE_REASON_LEAST_CONFIDENT,
            "predicted": "bolt",
            "confidence": 0.4,
            **fields,
        }
    )


def messages(*pictures: bytes, **fields: Any) -> Iterator[agent_pb2.UploadSamplesRequest]:
    for data in pictures:
        yield agent_pb2.UploadSamplesRequest(header=header(data, **fields))
        half = len(data) // 2
        for chunk in (data[:half], data[half:]):
            yield agent_pb2.UploadSamplesRequest(chunk=chunk)


class Floor:
    """What a test looks at: the world of devices, and the services behind the queue."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.datasets = DatasetService(world.database, world.blobs, world.events)
        self.projects = ProjectService(world.database, world.events, self.datasets)
        folder = world.settings.data_dir / "samples"
        self.kept = folder
        pictures = BlobStore(folder)
        self.intake = SampleIntake(world.database, world.events, world.devices, self.projects, pictures, world.clock)
        self.labelling = LabellingService(
            world.database,
            world.events,
            self.projects,
            self.datasets,
            world.blobs,
            self.intake,
            world.clock,
        )
        self._import(folder.parent)

    def _import(self, folder: Path) -> None:
        archive = folder / "parts.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for place, name in enumerate(CLASSES):
                for number in range(5):
                    packed.writestr(f"{name}/{number}.png", picture(1000 * (place + 1) + number))
        self.datasets.import_archive("parts", archive, append=False, strict=True)

    def apply(self, name: str = "parts", **samples: Any) -> None:
        self.projects.apply(name, ProjectSpec(dataset="parts", samples=SamplingSpec(**samples)))

    async def device(self, agent: Agent, project: str = "parts") -> Agent:
        """Return the agent enrolled, and with a network of the project to serve."""
        await agent.enrol()
        self.world.devices.assign(
            agent.name, "sha256:" + "1" * 64, [], "models/parts/versions/1", project, "onnxruntime/fp32"
        )
        return agent

    def samples(self, state: SampleState | None = None) -> list[QueuedSample]:
        return self.labelling.list("parts", state)[0]

    def pictures(self) -> list[Path]:
        return [path for path in self.kept.rglob("*") if path.is_file()]


@asynccontextmanager
async def floor(folder: Path, **samples: Any) -> AsyncIterator[Floor]:
    """Serve a hub with one project, "parts", whose sampling is as said: off, where nothing is."""
    made: list[Floor] = []

    def taking(world: World) -> SampleReceiver:
        made.append(Floor(world))
        return SampleReceiver(made[0].intake)

    async with hub(folder, samples=taking):
        made[0].apply(**samples)
        yield made[0]
