"""What the stages of a run share: the services, the run's folder, and how jobs are run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milonga_compiler.files import write_atomically

from milonga_hub.blobs import Blobs
from milonga_hub.builds.service import BuildService
from milonga_hub.datasets.models import TRAINING_FILES
from milonga_hub.datasets.service import DatasetService
from milonga_hub.devices.service import DeviceService
from milonga_hub.events import EventBus
from milonga_hub.jobs import Jobs, OnQuestion
from milonga_hub.models.service import ModelService
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.models import Run
from milonga_hub.runs.orders import Place
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.service import RunService
from milonga_hub.search.service import SearchService


@dataclass(frozen=True)
class Services:
    """What a run works with."""

    events: EventBus
    blobs: Blobs
    folder: Path
    datasets: DatasetService
    devices: DeviceService
    models: ModelService
    builds: BuildService
    rollouts: RolloutService
    runs: RunService
    search: SearchService
    jobs: Jobs


@dataclass(frozen=True)
class Work:
    """One run being worked on."""

    services: Services
    run: Run

    @property
    def folder(self) -> Path:
        """Where the run keeps its plan, data and jobs."""
        return (self.services.folder / self.run.project / str(self.run.number)).absolute()

    def data(self, plan: RunPlan) -> str:
        """Return the path of what jobs train on, "" where there is no data set."""
        return str(self.folder / TRAINING_FILES[plan.spec.task]) if plan.dataset_version else ""

    def threads(self, plan: RunPlan, kind: str) -> int:
        """Return how many threads a job of this kind takes."""
        return plan.spec.training.threads or self.services.jobs.threads(kind)

    def place(self, plan: RunPlan) -> Place:
        """Return where the jobs of the run are done."""
        return Place(self.data(plan), lambda kind: self.threads(plan, kind))

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Return JSON that the run wrote under this name before; where it has not, make it and write it first."""
        path = self.folder / name
        if not path.exists():
            write_atomically(path, json.dumps(make(), indent=1))
        return json.loads(path.read_text(encoding="utf-8"))

    async def job(
        self, kind: str, folder: str, spec: dict[str, Any], tell: Any, on_question: OnQuestion | None = None
    ) -> dict[str, Any]:
        """Return the result of the job in this folder of the run; it runs only if it has not finished before."""
        return await self.services.jobs.run(kind, spec, self.folder / folder, tell, on_question)
