"""How the build jobs of a run tune kernels: on the hub, or on devices of the type that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milonga_compiler.engines import ENGINES

from milonga_hub.jobs import OnQuestion
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work


@dataclass(frozen=True)
class RunTuning:
    """`told` goes into the job's spec; `afterwards` replaces it where other targets of the same subnet are built later."""

    work: Work
    device_type: str
    told: Mapping[str, Any]
    afterwards: Mapping[str, Any] = field(default_factory=dict)

    def question(self, report: Report, fraction: float) -> OnQuestion | None:
        """Return what answers the job, where devices time kernels; what they wait for is reported."""
        if "tuning_on" not in self.told:
            return None

        def tell(words: str) -> None:
            report(fraction, f"{self.device_type}: {words}")

        on = self.work.services.builds.device_tunings
        return on.answering(self.work.run.project, self.device_type, tell)


def how_tuned(work: Work, plan: RunPlan, item: TypePlan) -> RunTuning:
    """Return how a device type's builds are tuned.

    Raises FailedPrecondition where devices are to time kernels and the owners of the project's keys have not allowed it yet.
    """
    # Subnets of one supernet share kernels, and so do those of all versions of a project.
    root, wanted = _root(work), plan.spec.build
    gains = any(ENGINES[target.partition("/")[0]].tuned for target in item.targets)
    if not (wanted.tune_on_devices and wanted.tuning_minutes and gains):
        told = work.services.builds.tuning_of_job(root, item.architecture, item.name, wanted.tuning_minutes)
        return RunTuning(work, item.name, told)
    on = work.services.builds.device_tunings
    told = on.asked_of_job(work.run.project, root, item.name, wanted.tuning_minutes)
    return RunTuning(work, item.name, told, afterwards={"tuning_minutes": 0.0, "tuning_on": None})


def _root(work: Work) -> Path:
    """Return where the project's tuned kernels lie."""
    return work.services.folder / work.run.project / "tuned"
