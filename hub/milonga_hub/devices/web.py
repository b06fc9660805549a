"""Devices, their types, tokens and measurements over REST."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from pydantic import BaseModel

from milonga_hub.devices.models import (
    DeviceBuild,
    DeviceType,
    DeviceView,
    JoinRequest,
    JoinTokenView,
    Measurement,
    StepLog,
)
from milonga_hub.devices.service import DeviceService
from milonga_hub.devices.values import DeviceTransfers
from milonga_hub.web.views import PageSize, PageToken, files, view, views


class DevicePage(BaseModel):
    devices: list[DeviceView]
    next_page_token: str


class DeviceTypePage(BaseModel):
    device_types: list[DeviceType]
    next_page_token: str


class MeasurementPage(BaseModel):
    measurements: list[Measurement]
    next_page_token: str


class DeviceBuildPage(BaseModel):
    device_builds: list[DeviceBuild]
    next_page_token: str


class JoinTokenPage(BaseModel):
    join_tokens: list[JoinTokenView]
    next_page_token: str


class JoinRequestPage(BaseModel):
    join_requests: list[JoinRequest]
    next_page_token: str


class NewJoinToken(BaseModel):
    labels: dict[str, str] = {}
    uses: int = 0
    lifetime_seconds: int = 0
    request_id: str = ""


class MadeJoinToken(BaseModel):
    join_token: JoinTokenView
    # Shown once; the hub keeps only its hash.
    secret: str


class Labels(BaseModel):
    # An empty value removes its label.
    labels: dict[str, str]
    request_id: str = ""


class DeviceLog(BaseModel):
    text: str
    # For what is logged from here on.
    cursor: str


class Pin(BaseModel):
    model_version: str = ""


def router(devices: DeviceService) -> APIRouter:
    api = APIRouter(tags=["devices"])
    _add_devices(api, devices)
    _add_join_requests(api, devices)
    _add_others(api, devices)
    return api


def _add_devices(api: APIRouter, devices: DeviceService) -> None:
    @api.get("/devices")
    async def list_devices(selector: str = "", page_size: PageSize = 0, page_token: PageToken = "") -> DevicePage:
        """List the devices that the selector matches."""
        found, token = devices.list(selector, page_size, page_token)
        return DevicePage(devices=[view(DeviceView, devices.seen(each)) for each in found], next_page_token=token)

    @api.get("/devices/{device}")
    async def get_device(device: str) -> DeviceView:
        return view(DeviceView, devices.seen(devices.get(device)))

    @api.patch("/devices/{device}")
    async def update_device(device: str, body: Labels) -> DeviceView:
        """Set these labels and keep the others."""
        return view(DeviceView, devices.seen(devices.update_labels(device, body.labels, body.request_id)))

    @api.delete("/devices/{device}", status_code=204)
    async def delete_device(device: str) -> None:
        """Forget the device, end its connections and refuse its certificate from now on."""
        devices.delete(device)

    @api.post("/devices/{device}:revoke")
    async def revoke_device(device: str) -> DeviceView:
        """Shut the device out: its connections end now, and its key is refused until the device is deleted."""
        return view(DeviceView, devices.seen(devices.revoke(device)))

    @api.post("/devices/{device}:pin")
    async def pin_device(device: str, body: Pin) -> DeviceView:
        """Keep the device on a version, that it serves where none is named: rollouts of others leave it out."""
        return view(DeviceView, devices.seen(devices.pin(device, body.model_version)))

    @api.post("/devices/{device}:unpin")
    async def unpin_device(device: str) -> DeviceView:
        """Let rollouts reach the device again."""
        return view(DeviceView, devices.seen(devices.unpin(device)))

    @api.get("/devices/{device}/log")
    async def get_log(device: str, cursor: str = "", max_bytes: int = 0) -> DeviceLog:
        """Return what a connected device's agent logged, the newest or since a cursor."""
        answer = await devices.log(device, cursor, max_bytes)
        return DeviceLog(text=answer.content.decode("utf-8", "replace"), cursor=answer.cursor)

    @api.get("/devices/{device}/diagnostics", response_class=Response, responses=files("application/gzip"))
    async def diagnose_device(device: str) -> Response:
        """Return log, state, inventory, versions and checks of a connected device as a .tar.gz, without secrets."""
        name = f'attachment; filename="{devices.get(device).name}-diagnostics.tar.gz"'
        content = await devices.diagnose(device)
        return Response(content, media_type="application/gzip", headers={"Content-Disposition": name})

    @api.get("/devices/{device}/transfers")
    async def get_transfers(device: str) -> DeviceTransfers:
        """Return what came to the device of its builds, from where, and what it sent to its neighbours."""
        return devices.transfers(device)

    @api.post("/devices/{device}:restart")
    async def restart_device(device: str) -> DeviceView:
        """Want the device's agent to start anew, now or when it connects."""
        return view(DeviceView, devices.seen(devices.restart(device)))

    @api.post("/devices/{device}:profile")
    async def profile_device(device: str) -> DeviceView:
        """Want the device to probe its hardware and time its model again, now or when it connects."""
        return view(DeviceView, devices.seen(devices.profile(device)))

    @api.post("/devices/{device}:upgrade")
    async def upgrade_device(device: str) -> DeviceView:
        """Want the device's agent to take this hub's in its own place, now or when it connects."""
        return view(DeviceView, devices.seen(await asyncio.to_thread(devices.upgrade, device)))

    @api.get("/devices/{device}/steps")
    async def list_steps(device: str, generation: int | None = None) -> list[StepLog]:
        """List what the device reported on its way to its assignments, oldest first."""
        return devices.steps(devices.get(device).name, generation)


def _add_join_requests(api: APIRouter, devices: DeviceService) -> None:
    @api.get("/join_requests")
    async def list_requests(page_size: PageSize = 0, page_token: PageToken = "") -> JoinRequestPage:
        """List the machines that asked to join without a token."""
        found, token = devices.join_requests(page_size, page_token)
        return JoinRequestPage(join_requests=found, next_page_token=token)

    @api.post("/join_requests/{request}:approve")
    async def approve(request: str) -> JoinRequest:
        """Let the machine in; it gets its certificate the next time that it asks."""
        return devices.approve(request)

    @api.post("/join_requests/{request}:refuse")
    async def refuse(request: str) -> JoinRequest:
        return devices.refuse(request)


def _add_others(api: APIRouter, devices: DeviceService) -> None:
    @api.get("/device_types")
    async def list_types(page_size: PageSize = 0, page_token: PageToken = "") -> DeviceTypePage:
        found, token = devices.types(page_size, page_token)
        return DeviceTypePage(device_types=found, next_page_token=token)

    @api.get("/device_types/{device_type}")
    async def get_type(device_type: str) -> DeviceType:
        return devices.get_type(device_type)

    @api.get("/measurements")
    async def list_measurements(
        device_type: str = "", run: str = "", page_size: PageSize = 0, page_token: PageToken = ""
    ) -> MeasurementPage:
        found, token = devices.measurements(device_type, run, page_size, page_token)
        return MeasurementPage(measurements=found, next_page_token=token)

    @api.get("/device_builds")
    async def list_device_builds(
        device: str = "", bundle: str = "", page_size: PageSize = 0, page_token: PageToken = ""
    ) -> DeviceBuildPage:
        """List what devices built for themselves, and what came of it."""
        found, token = devices.device_builds(device, bundle, page_size, page_token)
        return DeviceBuildPage(device_builds=found, next_page_token=token)

    @api.get("/join_tokens")
    async def list_tokens(page_size: PageSize = 0, page_token: PageToken = "") -> JoinTokenPage:
        found, token = devices.list_join_tokens(page_size, page_token)
        return JoinTokenPage(join_tokens=views(JoinTokenView, found), next_page_token=token)

    @api.post("/join_tokens", status_code=201)
    async def create_token(body: NewJoinToken) -> MadeJoinToken:
        """Make a token with which devices join; its secret is shown only now."""
        token, secret = devices.create_join_token(body.labels, body.uses, body.lifetime_seconds, body.request_id)
        return MadeJoinToken(join_token=view(JoinTokenView, token), secret=secret)
