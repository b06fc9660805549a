"""The first page: what runs now, how the fleet is, and what to do next."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from milonga_hub.alerts.models import AlertState
from milonga_hub.db import utc_now
from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.rollouts.service import OPEN
from milonga_hub.web.charts.timeline import timeline
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/")
    async def overview(request: Request) -> HTMLResponse:
        devices = everything(lambda token: hub.devices.list(page_token=token))
        runs, _ = hub.runs.list(page_size=6)
        rollouts, _ = hub.rollouts.list(page_size=20)
        drift, _ = hub.telemetry.drift_events(page_size=5)
        datasets, _ = hub.datasets.list(page_size=1)
        projects, _ = hub.projects.list(page_size=1)
        return render(
            request,
            "overview.html",
            live="devices/,projects/,rollouts/,drift/,datasets/,alerts/",
            devices=devices,
            online=sum(device.state is DeviceState.ONLINE for device in devices),
            types=_types(devices),
            serving=Counter(device.active_version for device in devices),
            runs=runs,
            picture=timeline(runs[0].stages, utc_now()) if runs else "",
            rollouts=[rollout for rollout in rollouts if rollout.state in OPEN],
            drift=drift,
            alerts=everything(lambda token: hub.alerts.list(AlertState.OPEN, page_token=token)),
            steps=_steps(bool(devices), bool(datasets), bool(projects)),
        )

    return pages


def _types(devices: list[Device]) -> list[tuple[str, list[Device]]]:
    names = sorted({device.device_type for device in devices})
    return [(name, [device for device in devices if device.device_type == name]) for name in names]


def _steps(has_devices: bool, has_dataset: bool, has_project: bool) -> list[tuple[bool, str, str]]:
    """Return the way to a first model: done or not, what, and the command."""
    return [
        (has_devices, "Let a device join", "milonga tokens create"),
        (has_dataset, "Send labelled pictures", "milonga datasets import FOLDER --name NAME"),
        (has_project, "Say what you want", "milonga apply -f fleet_configs/projects/pictures.yaml"),
    ]
