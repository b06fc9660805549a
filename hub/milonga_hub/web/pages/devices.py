"""The fleet, and one device with all that is known of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.devices.service import LOG_SECONDS
from milonga_hub.errors import FailedPrecondition, InvalidInput, MilongaError
from milonga_hub.web.charts.latency import latency
from milonga_hub.web.charts.lines import Series, lines
from milonga_hub.web.language import gettext
from milonga_hub.web.pages import devices_together
from milonga_hub.web.pages.devices_together import Outcome
from milonga_hub.web.pages.page import Part, everything, render
from milonga_hub.web.services import HubServices

_SHOWN_DEVICES = 100
_SHOWN_STEPS = 40
_SHOWN_WINDOWS = 200
_SHOWN_MEASUREMENTS = 20


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/devices")
    def fleet(request: Request, selector: str = "", page_token: str = "") -> HTMLResponse:
        return _fleet(request, selector, page_token)

    @pages.post("/devices")
    def together(
        request: Request,
        verb: Annotated[str, Form()],
        device: Annotated[list[str] | None, Form()] = None,
        selector: Annotated[str, Form()] = "",
        which: Annotated[str, Form()] = "ticked",
        labels: Annotated[str, Form()] = "",
        batch: Annotated[str, Form()] = "",
    ) -> Response:
        """Do one thing to many devices, in a thread of its own, and show what became of it above them."""
        address = request.client.host if request.client else ""
        try:
            if verb == devices_together.UPGRADE:
                made = devices_together.upgrade(hub, device or [], selector, which == "all", batch)
                return RedirectResponse(f"/rollouts/{made.id}", 303)
            outcome = devices_together.apply(hub, verb, device or [], selector, which == "all", labels, address)
        except (InvalidInput, FailedPrecondition) as error:
            return _fleet(request, selector, "", problem=str(error), status=400)
        return _fleet(request, selector, "", outcome=outcome)

    def _fleet(
        request: Request,
        selector: str,
        page_token: str,
        outcome: Outcome | None = None,
        problem: str = "",
        status: int = 200,
    ) -> HTMLResponse:
        devices: list[Device] = []
        wrong, following, count = "", "", 0
        try:
            devices, following, count = hub.devices.counted(selector, _SHOWN_DEVICES, page_token)
        except InvalidInput as error:
            wrong = str(error)
        types = everything(lambda token: hub.devices.types(page_token=token))
        return render(
            request,
            "devices.html",
            script="devices",
            live="devices/,join_requests/",
            # A page that answers a form is fetched again from where it would be looked at.
            live_part=Part("content", f"/devices?{urlencode({'selector': selector})}") if outcome or problem else None,
            devices=[hub.devices.seen(device) for device in devices],
            count=count,
            first=f"/devices?{urlencode({'selector': selector})}" if page_token else "",
            following=f"/devices?{urlencode({'selector': selector, 'page_token': following})}" if following else "",
            types=types,
            join_requests=everything(lambda token: hub.devices.join_requests(page_token=token)),
            selector=selector,
            problem=wrong or problem,
            nothing_found=not wrong,
            outcome=outcome,
            verbs=devices_together.VERBS,
            known_labels=_label_keys(devices),
            status=status,
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

    @pages.post("/devices/{name}/upgrade")
    async def upgrade(name: str) -> RedirectResponse:
        device = await asyncio.to_thread(hub.devices.upgrade, name)
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
        heat = [(w.ended_at, w.temperature_celsius) for w in oldest_first if w.temperature_celsius is not None]
        return render(
            request,
            "device.html",
            script="form",
            live=f"devices/{device.name},device_builds/{device.name},steps/{device.name},telemetry/{device.name}",
            device=hub.devices.seen(device),
            refused=hub.telemetry.refusals.of(device.name),
            type=hub.devices.get_type(device.device_type),
            steps=hub.devices.steps(device.name)[-_SHOWN_STEPS:][::-1],
            assignment=hub.devices.assignment(device.name),
            transfers=hub.devices.transfers(device.name),
            device_builds=everything(lambda token: hub.devices.device_builds(device.name, page_token=token)),
            latency=latency({device.name: oldest_first}),
            temperature=lines(gettext("Temperature"), "°C", [Series(gettext("temperature"), heat, 3)]),
            cpu=lines(gettext("Processor"), "%", [Series(gettext("processor"), cpu, 1)]),
            memory=lines(gettext("Memory"), "MB", [Series(gettext("memory"), memory, 2)]),
            measurements=sorted(of_device, key=lambda each: each.measured_at, reverse=True)[:_SHOWN_MEASUREMENTS],
        )

    @pages.get("/devices/{name}/log")
    async def log(request: Request, name: str) -> HTMLResponse:
        """Show at once that the device is asked, or that it cannot be; the page then fetches the answer."""
        device = hub.devices.get(name)
        if device.state is DeviceState.ONLINE:
            return _log(request, device, asking=True)
        return await answer(request, name)

    @pages.get("/devices/{name}/log/answer")
    async def answer(request: Request, name: str) -> HTMLResponse:
        """Ask the device for what its agent logged; one that is silent takes LOG_SECONDS."""
        device = hub.devices.get(name)
        try:
            return _log(request, device, (await hub.devices.log(name)).content.decode("utf-8", "replace"))
        except MilongaError as error:
            return _log(request, device, problem=str(error))

    return pages


def _log(request: Request, device: Device, text: str = "", problem: str = "", asking: bool = False) -> HTMLResponse:
    return render(
        request,
        "device_log.html",
        script="later",
        device=device,
        asking=asking,
        seconds=LOG_SECONDS,
        text=text,
        problem=problem,
    )


def _label_keys(devices: Sequence[Device]) -> list[str]:
    """Return labels that the shown devices have, for examples that work here."""
    return sorted({f"{key}={value}" for device in devices for key, value in device.labels.items()})[:4]
