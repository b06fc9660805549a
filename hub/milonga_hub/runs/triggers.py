"""Close the loop: watch drift, new labels and the clock, and start the retraining that a project's policy asks for."""

from __future__ import annotations

import logging
from collections import defaultdict

from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import utc_now
from milonga_hub.devices.service import DeviceService
from milonga_hub.errors import MilongaError, NotFound
from milonga_hub.events import EventBus
from milonga_hub.labelling.service import LabellingService
from milonga_hub.paging import all_rows
from milonga_hub.projects.models import Project
from milonga_hub.projects.service import ProjectService
from milonga_hub.runs.models import DueRun, Run
from milonga_hub.runs.rules import AUTOMATIC
from milonga_hub.runs.rules_retraining import (
    Accuracy,
    Due,
    Evidence,
    Hold,
    Retraining,
    accuracy_key,
    look_back,
    retraining_due,
)
from milonga_hub.runs.service import RunService
from milonga_hub.telemetry.rules import SIGNALS
from milonga_hub.telemetry.service import TelemetryService

_log = logging.getLogger(__name__)

# A cool-down ends and a schedule comes without an event, so policies are looked at again this often.
_RECHECK_SECONDS = 5.0


class Triggers:
    def __init__(
        self,
        events: EventBus,
        projects: ProjectService,
        datasets: DatasetService,
        devices: DeviceService,
        telemetry: TelemetryService,
        labelling: LabellingService,
        runs: RunService,
    ) -> None:
        self._events = events
        self._projects = projects
        self._datasets = datasets
        self._devices = devices
        self._telemetry = telemetry
        self._labelling = labelling
        self._runs = runs
        # Of each project, the run that was said to wait last, and why.
        self._told: dict[str, tuple[str, Hold]] = {}

    async def run(self) -> None:
        """Look at every policy after every drift event, new data set version and ended run, until cancelled."""
        with self._events.listen("drift/", "datasets/", "projects/") as news:
            while True:
                self.look()
                try:
                    await news.next(_RECHECK_SECONDS)
                except TimeoutError:
                    continue

    def look(self) -> list[Run]:
        """Start what is due now and return it."""
        projects = [*all_rows(lambda token: self._projects.list(page_token=token))]
        started = []
        for project in projects:
            try:
                run = self._look_at(project)
            except MilongaError as error:
                _log.warning("policy of %s: %s", project.name, error)
                continue
            if run is not None:
                started.append(run)
        return started

    def due_run(self, project: str) -> DueRun | None:
        """Return the run that the project's policy calls for now, and what holds it back; None while it calls for none."""
        due = self._due(self._projects.get(project))
        if due is None:
            return None
        why, until = (due.hold.why, due.hold.until) if due.hold is not None else ("", None)
        return DueRun(trigger=due.run.trigger, reason=due.run.reason, held_back_by=why, held_back_until=until)

    def _due(self, project: Project) -> Due | None:
        policy, now = project.spec.retraining, utc_now()
        # Without a data set drift is watched, and nothing can be trained.
        starts = policy.drift.enabled or policy.accuracy.below is not None or policy.new_labels or policy.schedule
        if not (project.spec.dataset and starts):
            return None
        runs = self._runs.since(project.name, now - look_back(policy))
        return retraining_due(policy, self._evidence(project), runs, now)

    def _look_at(self, project: Project) -> Run | None:
        due = self._due(project)
        if due is None:
            return None
        if due.hold is not None:
            self._tell(project.name, due.run, due.hold)
            return None
        # Its key names the run, so that a crash between the two lines below cannot start a second one.
        run = self._runs.start(project.name, due.run.trigger, due.run.reason, request_id=due.run.key)
        self._telemetry.answer(due.run.event_ids, run.name)
        return run

    def _tell(self, project: str, due: Retraining, hold: Hold) -> None:
        """Say once that a run is due, and what it waits for."""
        if self._told.get(project) == (due.key, hold):
            return
        self._told[project] = (due.key, hold)
        until = f" until {hold.until:%Y-%m-%d %H:%M} UTC" if hold.until is not None else ""
        _log.info("a run of %s is due (%s) and waits%s: %s", project, due.reason, until, hold.why)

    def _evidence(self, project: Project) -> Evidence:
        runs, _ = self._runs.list(project.name)
        learned = self._number(next((run.dataset_version for run in runs if run.dataset_version), ""))
        asked_at = next((run.created_at for run in runs if run.trigger in AUTOMATIC), project.created_at)
        versions, _ = self._datasets.versions(project.spec.dataset, page_size=1000)
        unlearned = [version for version in versions if version.number > learned]
        drift = project.spec.retraining.drift
        events = [*self._telemetry.unanswered(project.name)] if drift.enabled else []
        drifted = [event for event in events if event.signal in SIGNALS]
        newest = max(versions, key=lambda version: version.number).name if versions else ""
        return Evidence(
            since=max([project.updated_at, *(run.created_at for run in runs[:1])]),
            drift=drifted,
            # A large fleet is counted only where it matters.
            fleet=self._fleet(project) if drifted and (drift.quorum > 1 or drift.quorum_share is not None) else {},
            unlearned_labels=sum(version.added_count for version in unlearned),
            unasked_labels=sum(version.added_count for version in unlearned if version.created_at > asked_at),
            accuracy=self._accuracy(project, newest),
            dataset_version=newest,
        )

    def _accuracy(self, project: Project, dataset_version: str) -> Accuracy | None:
        version = self._telemetry.newest_version(project.name)
        if not version or project.spec.retraining.accuracy.below is None:
            return None
        found = self._telemetry.estimated_accuracy(project.name)
        return Accuracy(
            version,
            found[1] if found is not None else None,
            self._labelling.accuracy(project.name, version),
            self._runs.is_known(project.name, accuracy_key(version, dataset_version)),
        )

    def _number(self, dataset_version: str) -> int:
        try:
            return self._datasets.get_version(dataset_version).number if dataset_version else 0
        except NotFound:
            return 0

    def _fleet(self, project: Project) -> dict[str, set[str]]:
        """Return the devices that the project is for, by type."""
        fleet: dict[str, set[str]] = defaultdict(set)
        for device in self._devices.matching(project.spec.selector):
            fleet[device.device_type].add(device.name)
        return fleet
