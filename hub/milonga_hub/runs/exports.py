"""What a run decided, and what devices measured for it, as files: its jobs can be done with them where there are no devices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from milonga_hub.blobs import Blobs
from milonga_hub.builds.models import Build
from milonga_hub.builds.service import BuildService
from milonga_hub.datasets.service import DatasetService
from milonga_hub.errors import FailedPrecondition
from milonga_hub.models.service import ModelService
from milonga_hub.paging import MAX_PAGE_SIZE, all_rows
from milonga_hub.projects.models import SearchStrategy
from milonga_hub.runs.models import PLAN, Run
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.profile import PROFILED
from milonga_hub.runs.profiled import Profiled
from milonga_hub.runs.service import RunService
from milonga_hub.zipping import zipped

# Names within the zip file.
ABOUT, MEASUREMENTS, ADDED, BASE, CHAMPIONS = "run.json", "measurements.json", "added.json", "base.pt", "champions"
_EVERY_SAMPLE = 2**31 - 1

Files = Iterator[tuple[str, bytes | Iterable[bytes]]]


class RunExports:
    def __init__(
        self,
        runs: RunService,
        datasets: DatasetService,
        models: ModelService,
        builds: BuildService,
        blobs: Blobs,
        folder: Path,
    ) -> None:
        """`folder` holds the folders of all runs."""
        self._runs, self._datasets, self._models, self._builds = runs, datasets, models, builds
        self._blobs, self._folder = blobs, folder

    def export(self, name: str) -> Iterator[bytes]:
        """Return the bytes of a zip file. Raises NotFound, and FailedPrecondition for a run that cannot be repeated elsewhere."""
        run = self._runs.get(name)
        folder = self._folder / run.project / str(run.number)
        plan = self._plan(run, folder)
        profiled = Profiled.model_validate_json((folder / PROFILED).read_text(encoding="utf-8"))
        return zipped(self._files(run, plan, profiled))

    @staticmethod
    def _plan(run: Run, folder: Path) -> RunPlan:
        if run.imported is not None:
            raise FailedPrecondition(f"{run.name} trained nothing: its model came from elsewhere")
        plan = RunPlan.read(folder)
        if plan is not None and plan.spec.search.strategy is SearchStrategy.BASELINE:
            raise FailedPrecondition(
                f"{run.name} is a baseline, which chooses among fixed networks; export a run that searches"
                " (spec.search.strategy)"
            )
        if plan is None or not (folder / PROFILED).exists():
            raise FailedPrecondition(
                f"devices have not measured all for {run.name} yet; go on once its stage profile is done: milonga runs watch"
                f" {run.project}/{run.number}"
            )
        return plan

    def _files(self, run: Run, plan: RunPlan, profiled: Profiled) -> Files:
        version = self._datasets.get_version(plan.dataset_version)
        about = {
            "run": run.name,
            "project": run.project,
            "number": run.number,
            "dataset_version": version.name,
            "dataset_digest": version.digest,
        }
        yield ABOUT, [_json(about)]
        yield PLAN, [plan.model_dump_json(indent=1).encode()]
        yield MEASUREMENTS, [_json(self._measurements(run, plan, profiled))]
        samples, _ = self._datasets.samples(version.name, count=_EVERY_SAMPLE)
        # Which pictures are new decides how much of each batch they are where a supernet is trained on.
        yield ADDED, [_json({one.digest: one.added_in for one in samples if one.added_in != 1})]
        if plan.base_supernet:
            yield BASE, self._blobs.read(plan.base_supernet)
        for compared in run.comparisons:
            champion = self._builds.chosen(compared.champion).get(compared.device_type)
            if champion is not None:
                yield from self._bundle(champion, f"{CHAMPIONS}/{compared.device_type}")

    def _bundle(self, build: Build, folder: str) -> Files:
        for file in build.files:
            yield f"{folder}/{file.path}", self._blobs.read(file.digest)

    def _measurements(self, run: Run, plan: RunPlan, profiled: Profiled) -> dict[str, Any]:
        """Return all that devices measured for the run, by device type."""
        candidates = [
            *all_rows(lambda token: self._runs.candidates(run.name, page_size=MAX_PAGE_SIZE, page_token=token))
        ]
        version = self._models.of_run(run.project, run.name)
        builds = self._every_build(version.name) if version else []
        return {
            "about": f"medians in ms, measured on devices for {run.name}; whatever uses them elsewhere measures nothing itself",
            "types": {
                item.name: {
                    "subnets": profiled.measured[item.name],
                    "candidates": [
                        {"subnet": one.subnet, "precision": one.precision, "median_ms": one.measured_ms}
                        for one in candidates
                        if one.device_type == item.name and one.measured_ms is not None
                    ],
                    "builds": [
                        {"subnet": one.subnet, "target": one.target, "median_ms": one.measured_ms}
                        for one in builds
                        if one.device_type == item.name and one.measured_ms is not None
                    ],
                }
                for item in plan.types
            },
            "elsewhere": profiled.history,
        }

    def _every_build(self, version: str) -> list[Build]:
        return [*all_rows(lambda token: self._builds.list(version, page_size=MAX_PAGE_SIZE, page_token=token))]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
