"""Close the loop: watch drift and new labels, and start the retraining that a project's policy asks for."""

from __future__ import annotations

import logging

from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import utc_now
from milonga_hub.errors import MilongaError, NotFound
from milonga_hub.events import EventBus
from milonga_hub.projects.models import Project
from milonga_hub.projects.service import ProjectService
from milonga_hub.runs.models import Run, Trigger
from milonga_hub.runs.rules import retraining_due
from milonga_hub.runs.service import RunService
from milonga_hub.telemetry.service import TelemetryService

_log = logging.getLogger(__name__)

# A cool-down ends without an event, so policies are looked at again this often.
_RECHECK_SECONDS = 5.0


class Triggers:
    def __init__(
        self,
        events: EventBus,
        projects: ProjectService,
        datasets: DatasetService,
        telemetry: TelemetryService,
        runs: RunService,
    ) -> None:
        self._events = events
        self._projects = projects
        self._datasets = datasets
        self._telemetry = telemetry
        self._runs = runs

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
        projects, token = self._projects.list()
        while token:
            more, token = self._projects.list(page_token=token)
            projects = [*projects, *more]
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

    def _look_at(self, project: Project) -> Run | None:
        policy = project.spec.drift
        events = self._telemetry.unanswered(project.name) if policy.enabled else []
        if not events:
            return None
        due = retraining_due(policy, events, self._new_labels(project), self._runs.latest(project.name), utc_now())
        if due is None:
            return None
        # The oldest event names the run, so that a crash between the two lines below cannot start a second one.
        run = self._runs.start(project.name, Trigger.DRIFT, due.reason, request_id=f"drift:{due.event_ids[0]}")
        self._telemetry.answer(list(due.event_ids), run.name)
        return run

    def _new_labels(self, project: Project) -> int:
        """Return how many pictures the data set gained since the last run that learned from it."""
        runs, _ = self._runs.list(project.name)
        used = next((run.dataset_version for run in runs if run.dataset_version), "")
        try:
            seen = self._datasets.get_version(used).number if used else 0
        except NotFound:
            seen = 0
        versions, _ = self._datasets.versions(project.spec.dataset, page_size=1000)
        return sum(version.added_count for version in versions if version.number > seen)
