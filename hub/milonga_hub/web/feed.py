"""What happened lately, from what the services keep of it: runs, rollouts, drift, data sets and devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from urllib.parse import quote

from milonga_hub.devices.values import Outline
from milonga_hub.runs.models import RunState
from milonga_hub.web.services import HubServices
from milonga_hub.web.words import state, version

# So many of each kind are asked for; older ones stand on pages of their own.
_OF_EACH = 10


@dataclass(frozen=True)
class Happening:
    """`mark` is a badge of style.css; the address leads to what it happened to."""

    at: datetime
    mark: str
    words: str
    address: str


def feed(hub: HubServices, devices: Sequence[Outline], at_most: int) -> list[Happening]:
    """Return what happened, the newest first."""
    found = [*_runs(hub), *_rollouts(hub), *_drift(hub), *_datasets(hub), *_joined(devices)]
    return sorted(found, key=lambda each: each.at, reverse=True)[:at_most]


def _runs(hub: HubServices) -> Iterator[Happening]:
    for run in hub.runs.list(page_size=_OF_EACH)[0]:
        address = f"/runs/{quote(run.project, safe='')}/{run.number}"
        yield Happening(
            run.created_at, _beginning(run.state), f"{version(run.name)}: {run.reason or state(run.trigger)}", address
        )
        if run.ended_at is not None:
            said = run.outcome or run.error
            yield Happening(run.ended_at, f"run {state(run.state)}", f"{version(run.name)}: {said}", address)


def _beginning(run_state: RunState) -> str:
    return "run awaits approval" if run_state is RunState.AWAITING_APPROVAL else "run began"


def _rollouts(hub: HubServices) -> Iterator[Happening]:
    for rollout in hub.rollouts.list(page_size=_OF_EACH)[0]:
        address = f"/rollouts/{quote(rollout.id, safe='')}"
        count = sum(wave.device_count for wave in rollout.waves)
        words = f"{version(rollout.model_version)} to {count} {'device' if count == 1 else 'devices'}"
        yield Happening(rollout.created_at, "rollout began", words, address)
        if rollout.ended_at is not None:
            yield Happening(rollout.ended_at, f"rollout {state(rollout.state)}", f"{words} {rollout.reason}", address)


def _drift(hub: HubServices) -> Iterator[Happening]:
    for event in hub.telemetry.drift_events(page_size=_OF_EACH)[0]:
        words = f"{event.signal} on {event.device}: {event.statistic:.2f}, above {event.threshold:g}"
        yield Happening(event.detected_at, "drift", words, "/monitoring")


def _datasets(hub: HubServices) -> Iterator[Happening]:
    for dataset in hub.datasets.list(page_size=_OF_EACH)[0]:
        newest = hub.datasets.latest(dataset.name)
        words = f"{version(newest.name)} with {newest.train_count + newest.validation_count} pictures"
        yield Happening(newest.created_at, "data set", words, f"/datasets/{quote(dataset.name, safe='')}")


def _joined(devices: Sequence[Outline]) -> Iterator[Happening]:
    for device in nlargest(_OF_EACH, devices, key=lambda each: each.enrolled_at):
        words = f"{device.name}, {device.device_type}"
        yield Happening(device.enrolled_at, "device joined", words, f"/devices/{quote(device.name, safe='')}")
