"""The composition root: the only file that knows everything."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from milonga_hub.blobs import BlobStore
from milonga_hub.builds.service import BuildService
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.devices.service import DeviceService
from milonga_hub.errors import FailedPrecondition, InvalidInput, MilongaError
from milonga_hub.events import EventBus
from milonga_hub.jobs import write_atomically
from milonga_hub.models.service import ModelService
from milonga_hub.projects.service import ProjectService
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.executor import Executor
from milonga_hub.runs.models import Run
from milonga_hub.runs.pipeline import Pipeline, Services
from milonga_hub.runs.service import RunService
from milonga_hub.runs.triggers import Triggers
from milonga_hub.settings import Settings
from milonga_hub.telemetry.service import TelemetryService

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Addresses:
    """Where a running hub listens, as "host:port"."""

    http: str
    grpc: str
    mqtt: str


class Hub:
    """Everything of one hub. `async with hub.running(): ...` serves until the block ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = _usable_folder(settings.data_dir)
        self._lock = _lock(self.folder)
        self.database = Database(settings.resolved_database_url)
        self.database.create_tables()
        self.events = EventBus()
        self.blobs = BlobStore(self.folder / "blobs")
        self.devices = DeviceService(self.database, self.events, settings)
        self.datasets = DatasetService(self.database, self.blobs, self.events)
        self.projects = ProjectService(self.database, self.events)
        self.models = ModelService(self.database)
        self.builds = BuildService(self.database, self.blobs, self.events)
        self.rollouts = RolloutService(self.database, self.events, self.devices, self.builds)
        self.runs = RunService(self.database, self.events, self.projects)
        self.telemetry = TelemetryService(
            self.database,
            self.events,
            reference_of=self._reference_of,
            policy_of=lambda project: self.projects.get(project).spec.drift,
        )
        self.triggers = Triggers(self.events, self.projects, self.datasets, self.telemetry, self.runs)
        self.executor = Executor(self.runs, self._work)
        self._cpu = asyncio.Semaphore(1)
        self.addresses = Addresses("", "", "")
