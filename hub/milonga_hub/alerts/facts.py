"""Ask the other services how the fleet is, so that rules can judge it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from milonga_hub.alerts.rules_findings import DeviceFacts, DriftFacts, Facts, RolloutFacts, RunFacts
from milonga_hub.callers import seen_projects
from milonga_hub.devices.models import DeviceState
from milonga_hub.devices.service import DeviceService
from milonga_hub.paging import MAX_PAGE_SIZE, all_rows
from milonga_hub.projects.service import ProjectService
from milonga_hub.rollouts.models import LEFT_OUT, LIVE, PAUSED_BY_HAND, Rollout, RolloutDeviceState, RolloutState
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.models import RunState
from milonga_hub.runs.service import RunService
from milonga_hub.telemetry.service import TelemetryService


class Observer:
    """Reads facts. Telemetry is read once for each stretch of it that rules look at."""

    def __init__(
        self,
        devices: DeviceService,
        projects: ProjectService,
        runs: RunService,
        rollouts: RolloutService,
        telemetry: TelemetryService,
        window_seconds: float,
    ) -> None:
        """`window_seconds` is what agents are told of telemetry."""
        self._devices = devices
        self._projects = projects
        self._runs = runs
        self._rollouts = rollouts
        self._telemetry = telemetry
        self._window_seconds = window_seconds

    def facts(self, since: datetime) -> Facts:
        """Return how the fleet is now, with the telemetry since that time."""
        projects = [*all_rows(lambda token: self._projects.list(MAX_PAGE_SIZE, token))]
        names = [project.name for project in projects]
        return Facts(
            devices=self._device_facts(since),
            drift=[fact for name in names for fact in self._drift(name)],
            failed_runs=[fact for name in names for fact in self._failed_run(name)],
            # Those of agents are of no project.
            rollouts=[fact for name in (*names, "") for fact in self._rollout(name)],
            untrained={project.name for project in projects if not project.spec.dataset},
            window_seconds=self._window_seconds,
        )

    def projects(self) -> list[str]:
        """Return the names of the projects that the caller may see."""
        return self._projects.names(seen_projects())

    def _device_facts(self, since: datetime) -> list[DeviceFacts]:
        active = self._telemetry.activity(since)
        expected = self._devices.expected_latencies()
        found = []
        for device in self._devices.matching(""):
            if device.state is DeviceState.REVOKED:
                continue
            did, refused = active.get(device.name), self._telemetry.refusals.of(device.name)
            is_refused = refused.refused_at is not None and refused.refused_at >= since
            bundle, expected_ms = expected.get(device.name, ("", 0.0))
            found.append(
                DeviceFacts(
                    name=device.name,
                    attributes=self._devices.attributes(device),
                    online=device.state is DeviceState.ONLINE,
                    seen_at=device.seen_at,
                    project=did.project if did else "",
                    request_count=did.request_count if did else 0,
                    error_count=did.error_count if did else 0,
                    median_ms=did.median_ms if did else None,
                    expected_ms=expected_ms if did and did.bundle == bundle and expected_ms > 0 else None,
                    temperature_celsius=did.temperature_celsius if did else None,
                    dropped_count=did.dropped_count if did else 0,
                    window_count=did.window_count if did else 0,
                    refused_count=refused.count if is_refused else 0,
                    refused_reason=refused.reason if is_refused else "",
                    throttled_share=did.throttled_share if did else None,
                    power_watts=did.power_watts if did else None,
                    clock_ahead_seconds=device.clock_ahead_seconds,
                )
            )
        return found

    def _drift(self, project: str) -> Iterator[DriftFacts]:
        for event in self._telemetry.unanswered(project):
            yield DriftFacts(event.device, project, event.signal, event.statistic, event.detected_at)

    def _failed_run(self, project: str) -> Iterator[RunFacts]:
        run = self._runs.latest(project)
        if run is not None and run.state is RunState.FAILED:
            yield RunFacts(run.name, project, run.error, run.ended_at)

    def _rollout(self, project: str) -> Iterator[RolloutFacts]:
        for id in self._rollouts.current_ids(project):
            rollout = self._rollouts.get(id)
            yield RolloutFacts(
                rollout.id,
                project,
                rollout.brings,
                rollout.state is RolloutState.PAUSED,
                rollout.reason,
                {
                    one.device: one.message
                    # What became of a device's agent stands with the device.
                    for one in ([] if rollout.agent_version else rollout.devices)
                    if one.state is RolloutDeviceState.FAILED and one.wave != LEFT_OUT
                },
                rollout.state is RolloutState.AWAITING_APPROVAL,
                rollout.reason == PAUSED_BY_HAND,
                self._took_back(rollout),
                rollout.state in (*LIVE, RolloutState.PAUSED),
            )

    def _took_back(self, rollout: Rollout) -> tuple[str, str, str] | None:
        """Return what the rollout took back without a person, its version and why; None where it took nothing."""
        if not rollout.rolls_back:
            return None
        taken = self._rollouts.get(rollout.rolls_back)
        _, _, why = taken.reason.partition(": ")
        return (taken.id, taken.model_version, why) if why else None
