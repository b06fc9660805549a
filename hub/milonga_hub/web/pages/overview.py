"""The first page: what runs now, how the fleet is, what happened, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from milonga_hub.alerts.models import AlertState
from milonga_hub.db import utc_now
from milonga_hub.devices.models import DeviceState, JoinRequestState
from milonga_hub.devices.values import Outline
from milonga_hub.rollouts.models import OPEN
from milonga_hub.web.charts.honeycomb import Cell, honeycomb
from milonga_hub.web.charts.timeline import timeline
from milonga_hub.web.feed import feed
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices
from milonga_hub.web.words import state, version

_SHOWN_HAPPENINGS = 12
# More cannot be told apart, and take a browser long.
_MOST_CELLS = 500
# How a device is, the best first: class of style.css and words.
HEALTH = {
    "healthy": N_("serving what is assigned"),
    "changing": N_("on its way to another build"),
    "idle": N_("online, serving nothing"),
    "away": N_("not online"),
    "troubled": N_("with an open alert"),
}
_BY_EASE = ("healthy", "idle", "changing", "away", "troubled")


@dataclass(frozen=True)
class Step:
    """One step on the way to a first model."""

    done: bool
    what: str
    how: str
    address: str


@dataclass(frozen=True)
class OfType:
    name: str
    simulated: bool
    online: int
    count: int


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/")
    def overview(request: Request) -> HTMLResponse:
        """Show it, in a thread of its own: a large fleet takes a while to count."""
        devices = hub.devices.outlines()
        devices.sort(key=lambda device: (device.device_type, device.name))
        runs, _ = hub.runs.list(page_size=6)
        rollouts, _ = hub.rollouts.headlines(page_size=20)
        drift, _ = hub.telemetry.drift_events(page_size=5)
        datasets, _ = hub.datasets.list(page_size=1)
        projects, _ = hub.projects.list(page_size=1)
        asking, _ = hub.devices.join_requests()
        alerts = everything(lambda token: hub.alerts.list(AlertState.OPEN, page_token=token))
        troubled = {alert.subject for alert in alerts}
        found = [health(device, troubled) for device in devices]
        return render(
            request,
            "overview.html",
            live="devices/,join_requests/,projects/,rollouts/,drift/,datasets/,alerts/",
            devices=devices,
            online=sum(device.state is DeviceState.ONLINE for device in devices),
            asking=sum(each.state is JoinRequestState.PENDING for each in asking),
            types=_types(devices),
            picture=honeycomb([_cell(*pair) for pair in _pictured(devices, found)]),
            left_out=max(0, len(devices) - _MOST_CELLS),
            health=Counter(found),
            words=HEALTH,
            serving=Counter(device.active_version for device in devices).most_common(),
            awaiting=hub.runs.awaiting_approval(),
            runs=runs,
            timeline=timeline(runs[0].stages, utc_now()) if runs else "",
            rollouts=[rollout for rollout in rollouts if rollout.state in OPEN],
            drift=drift,
            alerts=alerts,
            feed=feed(hub, devices, rollouts, _SHOWN_HAPPENINGS),
            steps=_steps(bool(devices), bool(datasets), bool(projects)),
        )

    return pages


def _pictured(devices: Sequence[Outline], found: Sequence[str]) -> list[tuple[Outline, str]]:
    """Return the devices with their health that a picture has room for: of a large fleet those that are worst off."""
    pairs = list(zip(devices, found, strict=True))
    if len(pairs) <= _MOST_CELLS:
        return pairs
    worst_first = {health: -rank for rank, health in enumerate(_BY_EASE)}
    return sorted(pairs, key=lambda pair: worst_first[pair[1]])[:_MOST_CELLS]


def health(device: Outline, troubled: Container[str]) -> str:
    """Return how the device is: one of HEALTH. `troubled` are the subjects of open alerts."""
    if f"devices/{device.name}" in troubled:
        return "troubled"
    if device.state is not DeviceState.ONLINE:
        return "away"
    if device.reported_generation < device.assigned_generation:
        return "changing"
    return "healthy" if device.active_version else "idle"


def _cell(device: Outline, found: str) -> Cell:
    serves = f", {version(device.active_version)}" if device.active_version else ""
    simulated = f", {_('simulated')}" if device.simulated else ""
    words = state(device.state) if found == "away" else _(HEALTH[found])
    return Cell(device.name, found, f"{words}{serves}{simulated}")


def _types(devices: Sequence[Outline]) -> list[OfType]:
    """Return the types of the devices, which stand in their order."""
    found: dict[str, list[Outline]] = {}
    for device in devices:
        found.setdefault(device.device_type, []).append(device)
    return [
        OfType(name, of[0].simulated, sum(each.state is DeviceState.ONLINE for each in of), len(of))
        for name, of in found.items()
    ]


def _steps(has_devices: bool, has_dataset: bool, has_project: bool) -> list[Step]:
    """Return the way to a first model."""
    return [
        Step(
            has_devices,
            N_("Add a device"),
            N_("one command, to copy or to scan; on as many as you like"),
            "/new/devices",
        ),
        Step(has_dataset, N_("Send labelled pictures"), N_("drop a zip or a folder on the page"), "/new/datasets"),
        Step(has_project, N_("Say what you want"), N_("five questions, with answers to choose from"), "/new/projects"),
    ]
