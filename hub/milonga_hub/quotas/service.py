"""Counts what projects use, and stands at the doors: imports, pictures of devices, enrolment, runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from milonga_hub.builds.service import BuildService
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import utc_now
from milonga_hub.devices.models import Device
from milonga_hub.devices.selectors import parse
from milonga_hub.devices.service import DeviceService
from milonga_hub.errors import QuotaExceeded
from milonga_hub.paging import all_rows
from milonga_hub.projects.models import Project
from milonga_hub.projects.service import ProjectService
from milonga_hub.quotas import rules
from milonga_hub.quotas.models import QUOTAS_FILE, ProjectUsage, QuotasSpec
from milonga_hub.runs.rules import ENDED
from milonga_hub.runs.service import RunService

_DAY = timedelta(days=1)


class Samples(Protocol):
    """What takes pictures of devices."""

    may_grow: Callable[[str, int], None]

    def size_bytes(self, project: str) -> int: ...


class QuotaService:
    """Reads the quotas from a file, which may change while the hub runs. Without a file nothing is limited, and nothing counted."""

    def __init__(
        self,
        path: Path | None,
        projects: ProjectService,
        datasets: DatasetService,
        samples: Samples,
        builds: BuildService,
        devices: DeviceService,
        runs: RunService,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._path = path
        self._projects, self._datasets, self._samples = projects, datasets, samples
        self._builds, self._devices, self._runs = builds, devices, runs
        self._clock = clock
        self._lock = threading.Lock()
        # The file as it was read last, by its time.
        self._read_at = -1
        self._spec = QuotasSpec()
        self.spec()

    def stand_at_doors(self) -> None:
        """Let the services ask before they take more."""
        self._datasets.may_grow = self.check_dataset
        self._samples.may_grow = self.check_samples
        self._devices.may_join(self.check_device)
        self._runs.may_start = self.check_run

    def spec(self) -> QuotasSpec:
        """Return the quotas. Raises InvalidInput for a file that cannot be read: nothing is taken for unlimited by mistake."""
        if self._path is None:
            return self._spec
        with self._lock:
            changed_at = self._path.stat().st_mtime_ns if self._path.exists() else 0
            if changed_at != self._read_at:
                self._spec = QUOTAS_FILE.load(self._path)[1]
                self._read_at = changed_at
            return self._spec

    def usage(self, project: str) -> ProjectUsage:
        """Return what the project takes and may take. Raises NotFound."""
        found = self._projects.get(project)
        now = self._clock()
        runs = self._runs.since(project, now - _DAY)
        came = self._devices.transfers_of_project(project)
        return ProjectUsage(
            project=project,
            dataset_bytes=self._datasets.size_bytes(found.spec.dataset) if found.spec.dataset else 0,
            sample_bytes=self._samples.size_bytes(project),
            build_bytes=self._builds.size_bytes(project),
            device_count=len(self._devices.outlines(found.spec.selector, with_revoked=False)),
            open_run_count=sum(run.state not in ENDED for run in runs),
            day_run_count=sum(run.created_at >= now - _DAY for run in runs),
            quota=rules.quota_of(self.spec(), project),
            whole_bytes=came.whole_bytes,
            moved_bytes=came.moved_bytes,
            neighbour_bytes=came.neighbour_bytes,
        )

    def usages(self, projects: Collection[str] | None = None) -> list[ProjectUsage]:
        """Return what all projects take, by name; of these alone where some are named."""
        return [self.usage(project.name) for project in self._all() if projects is None or project.name in projects]

    def limited(self) -> list[ProjectUsage]:
        """Return what those projects take that have a quota."""
        quotas = ((project, rules.quota_of(self.spec(), project.name)) for project in self._all())
        return [self.usage(project.name) for project, quota in quotas if quota.model_dump(exclude_none=True)]

    # The doors

    def check_dataset(self, dataset: str, added_bytes: Callable[[], int]) -> None:
        """Raise QuotaExceeded where a project of the data set may not keep so much more."""
        for project in self._all() if self._path is not None else ():
            if project.spec.dataset == dataset and self._storage(project) is not None:
                _raise(rules.no_room(self.usage(project.name), added_bytes()))

    def check_samples(self, project: str, added_bytes: int) -> None:
        """Raise QuotaExceeded where the project may not keep so much more of its devices."""
        if self._path is not None and rules.quota_of(self.spec(), project).storage_bytes is not None:
            _raise(rules.no_room(self.usage(project), added_bytes))

    def check_device(self, device: Device) -> None:
        """Raise QuotaExceeded where a project that the new device would belong to may have no more."""
        for project in self._all() if self._path is not None else ():
            if rules.quota_of(self.spec(), project.name).devices is not None and parse(project.spec.selector).matches(
                self._devices.attributes(device)
            ):
                _raise(rules.no_device(self.usage(project.name)))

    def check_run(self, project: str) -> None:
        """Raise QuotaExceeded where the project may start no run."""
        if self._path is not None:
            _raise(rules.no_run(self.usage(project)))

    def _storage(self, project: Project) -> int | None:
        return rules.quota_of(self.spec(), project.name).storage_bytes

    def _all(self) -> Iterator[Project]:
        return all_rows(lambda token: self._projects.list(page_token=token))


def _raise(words: str) -> None:
    if words:
        raise QuotaExceeded(words)
