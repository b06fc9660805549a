"""The fleet, and one device with all that is known of it."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from milonga_hub.errors import InvalidInput
from milonga_hub.web.charts.latency import latency
from milonga_hub.web.charts.lines import Series, lines
from milonga_hub.web.language import gettext
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

_SHOWN_DEVICES = 100
_SHOWN_STEPS = 40
_SHOWN_WINDOWS = 200
_SHOWN_MEASUREMENTS = 20


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/devices")
    async def fleet(request: Request, selector: str = "", page_token: str = "") -> HTMLResponse:
        problem, following = "", ""
        try:
            devices, following = hub.devices.list(selector, _SHOWN_DEVICES, page_token)
        except InvalidInput as error:
            devices, problem = [], str(error)
        types = everything(lambda token: hub.devices.types(page_token=token))
        return render(
            request,
            "devices.html",
            live="devices/,join_requests/",
            devices=devices,
            count=len(hub.devices.outlines("" if problem else selector)) if following or page_token else len(devices),
            more=urlencode({"selector": selector, "page_token": following}) if following else "",
            first=not page_token,
            types=types,
            join_requests=everything(lambda token: hub.devices.join_requests(page_token=token)),
            selector=selector,
            problem=problem,
        )

    @pages.post("/join_requests/{id_}/approve")
    async def approve(id_: str) -> RedirectResponse:
        hub.devices.approve(id_)
        return RedirectResponse("/devices", 303)

    @pages.post("/join_requests/{id_}/refuse")
    async def refuse(id_: str) -> RedirectResponse:
        hub.devices.refuse(id_)
        return RedirectResponse("/devices", 303)

    @pages.post("/devices/{name}/revoke")
    async def revoke(name: str) -> RedirectResponse:
        device = hub.devices.revoke(name)
        return RedirectResponse(f"/devices/{device.name}", 303)

    @pages.post("/devices/{name}/pin")
    async def pin(name: str) -> RedirectResponse:
        """Keep the device on the version that it serves."""
        device = hub.devices.pin(name)
        return RedirectResponse(f"/devices/{device.name}", 303)

    @pages.post("/devices/{name}/restart")
    async def restart(name: str) -> RedirectResponse:
        device = hub.devices.restart(name)
        return RedirectResponse(f"/devices/{device.name}", 303)

    @pages.post("/devices/{name}/profile")
    async def profile(name: str) -> RedirectResponse:
        device = hub.devices.profile(name)
        return RedirectResponse(f"/devices/{device.name}", 303)

    @pages.post("/devices/{name}/unpin")
    async def unpin(name: str) -> RedirectResponse:
        device = hub.devices.unpin(name)
        return RedirectResponse(f"/devices/{device.name}", 303)

    @pages.get("/devices/{name}")
    async def one(request: Request, name: str) -> HTMLResponse:
        device = hub.devices.get(name)
        windows, _ = hub.telemetry.query(device=device.name, page_size=_SHOWN_WINDOWS)
        oldest_first = sorted(windows, key=lambda window: window.ended_at)
        measured = everything(lambda token: hub.devices.measurements(device.device_type, page_token=token))
        of_device = [each for each in measured if each.device == device.name]
        cpu = [(window.ended_at, window.cpu_percent) for window in oldest_first if window.cpu_percent is not None]
        memory = [(window.ended_at, window.memory_bytes / 1e6) for window in oldest_first]
        return render(
            request,
            "device.html",
            live=f"devices/{device.name},device_builds/{device.name},steps/{device.name},telemetry/{device.name}",
            device=device,
            refused=hub.telemetry.refusals.of(device.name),
            type=hub.devices.get_type(device.device_type),
            steps=hub.devices.steps(device.name)[-_SHOWN_STEPS:][::-1],
            assignment=hub.devices.assignment(device.name),
            device_builds=everything(lambda token: hub.devices.device_builds(device.name, page_token=token)),
            latency=latency({device.name: oldest_first}),
            cpu=lines(gettext("Processor"), "%", [Series(gettext("processor"), cpu, 1)]),
            memory=lines(gettext("Memory"), "MB", [Series(gettext("memory"), memory, 2)]),
            measurements=sorted(of_device, key=lambda each: each.measured_at, reverse=True)[:_SHOWN_MEASUREMENTS],
        )

    return pages
