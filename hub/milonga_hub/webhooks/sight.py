"""What has happened since a time, read from the other services: they keep it, so that a hub that was down finds it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from milonga_hub.alerts.models import AlertSignal
from milonga_hub.alerts.rules import OPENED, RESOLVED, told
from milonga_hub.alerts.service import AlertService
from milonga_hub.builds.models import BuildState
from milonga_hub.builds.service import BuildService
from milonga_hub.callers import seen_projects
from milonga_hub.datasets.service import DatasetService
from milonga_hub.devices.service import DeviceService
from milonga_hub.paging import MAX_PAGE_SIZE, all_rows
from milonga_hub.projects.service import ProjectService
from milonga_hub.rollouts.models import RolloutState
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.service import RunService
from milonga_hub.webhooks.models import EventKind, Happening

# Without what grows with the fleet or the data: receivers take small events, and ask for the rest.
_RUN = {
    "name",
    "project",
    "number",
    "trigger",
    "state",
    "reason",
    "outcome",
    "error",
    "dataset_version",
    "created_at",
    "ended_at",
}
_ROLLOUT = {"id", "project", "model_version", "agent_version", "state", "reason", "selector", "created_at", "ended_at"}
_BUILD = {
    "name", "model_version", "device_type", "engine", "precision", "state", "reason", "bundle", "size_bytes", "accuracy",
    "subnet_accuracy", "predicted_ms", "measured_ms", "decision",
}  # fmt: skip
_DEVICE = {"name", "device_type", "labels", "simulated", "agent_version", "enrolled_at"}
_VERSION = {
    "name",
    "dataset",
    "number",
    "digest",
    "task",
    "train_count",
    "validation_count",
    "added_count",
    "created_at",
}
_ROLLOUTS = {
    RolloutState.PAUSED: EventKind.ROLLOUT_PAUSED,
    RolloutState.SUCCEEDED: EventKind.ROLLOUT_FINISHED,
    RolloutState.ABORTED: EventKind.ROLLOUT_FINISHED,
}


class Sight:
    def __init__(
        self,
        runs: RunService,
        rollouts: RolloutService,
        builds: BuildService,
        devices: DeviceService,
        datasets: DatasetService,
        projects: ProjectService,
        alerts: AlertService,
    ) -> None:
        self._runs, self._rollouts, self._builds, self._devices = runs, rollouts, builds, devices
        self._datasets, self._projects, self._alerts = datasets, projects, alerts

    def happened(self, since: datetime) -> list[Happening]:
        """Return what has happened since then, in its order."""
        found = [
            *self._of_runs(since),
            *self._of_rollouts(since),
            *self._of_builds(since),
            *self._of_devices(since),
            *self._of_datasets(since),
            *self._of_alerts(since),
        ]
        return sorted(found, key=lambda each: each.at)

    def projects(self) -> list[str]:
        """Return the names of the projects that the caller may see."""
        return self._projects.names(seen_projects())

    def _of_runs(self, since: datetime) -> Iterator[Happening]:
        for run in self._runs.ended_since(since):
            if run.ended_at is not None:
                yield Happening(
                    kind=EventKind.RUN_FINISHED,
                    subject=run.name,
                    at=run.ended_at,
                    data=_shown(run, _RUN),
                    projects=[run.project],
                )

    def _of_rollouts(self, since: datetime) -> Iterator[Happening]:
        for rollout in self._rollouts.since(since):
            kind = _ROLLOUTS.get(rollout.state)
            if kind is not None and rollout.state_at is not None:
                yield Happening(
                    kind=kind,
                    subject=f"rollouts/{rollout.id}",
                    at=rollout.state_at,
                    data={**_shown(rollout, _ROLLOUT), "device_count": len(rollout.devices)},
                    projects=[rollout.project],
                )

    def _of_builds(self, since: datetime) -> Iterator[Happening]:
        for build in self._builds.settled_since(since):
            is_good = build.state is BuildState.VERIFIED
            if build.state_at is not None:
                yield Happening(
                    kind=EventKind.BUILD_VERIFIED if is_good else EventKind.BUILD_REJECTED,
                    subject=build.name,
                    at=build.state_at,
                    data=_shown(build, _BUILD),
                    # A model has the name of its project.
                    projects=[build.model_version.split("/")[1]],
                )

    def _of_devices(self, since: datetime) -> Iterator[Happening]:
        for device in self._devices.enrolled_since(since):
            yield Happening(
                kind=EventKind.DEVICE_ENROLLED,
                subject=f"devices/{device.name}",
                at=device.enrolled_at,
                data=_shown(device, _DEVICE),
            )

    def _of_datasets(self, since: datetime) -> Iterator[Happening]:
        for version in self._datasets.made_since(since):
            yield Happening(
                # What was labelled here lay in no layout.
                kind=EventKind.DATASET_LABELLED if version.layout is None else EventKind.DATASET_IMPORTED,
                subject=version.name,
                at=version.created_at,
                data=_shown(version, _VERSION),
                projects=[*self._users(version.dataset)],
            )

    def _users(self, dataset: str) -> Iterator[str]:
        projects = all_rows(lambda token: self._projects.list(MAX_PAGE_SIZE, token))
        return (project.name for project in projects if project.spec.dataset == dataset)

    def _of_alerts(self, since: datetime) -> Iterator[Happening]:
        for alert in self._alerts.changed_since(since):
            of, subject = [alert.project] if alert.project else [], f"alerts/{alert.id}"
            if alert.opened_at >= since:
                data = told(OPENED, [alert])
                yield Happening(
                    kind=EventKind.ALERT_OPENED, subject=subject, at=alert.opened_at, data=data, projects=of
                )
                if alert.signal is AlertSignal.DEVICE_OFFLINE:
                    silent = {"name": alert.subject.removeprefix("devices/"), "since": alert.since.isoformat()}
                    yield Happening(
                        kind=EventKind.DEVICE_SILENT,
                        subject=alert.subject,
                        at=alert.opened_at,
                        data={**silent, "alert": alert.id, "message": alert.message},
                        projects=of,
                    )
            if alert.resolved_at is not None and alert.resolved_at >= since:
                data = told(RESOLVED, [alert])
                yield Happening(
                    kind=EventKind.ALERT_RESOLVED, subject=subject, at=alert.resolved_at, data=data, projects=of
                )


def _shown(row: BaseModel, fields: set[str]) -> dict[str, Any]:
    return row.model_dump(mode="json", include=fields)
