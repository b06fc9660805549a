"""One model version with its lineage and builds."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from milonga_compiler.target import known_targets

from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/models/{model}/versions/{number}")
    async def one(request: Request, model: str, number: int) -> HTMLResponse:
        version = hub.models.get_version(f"models/{model}/versions/{number}")
        builds = everything(lambda token: hub.builds.list(version.name, page_token=token))
        rollouts = [each for each in hub.rollouts.list(page_size=200)[0] if each.model_version == version.name]
        devices = [device for device in hub.devices.matching("") if device.active_version == version.name]
        return render(
            request,
            "model.html",
            live=f"rollouts/,devices/,builds/{version.name}",
            request_id=secrets.token_hex(16),
            version=version,
            builds=sorted(builds, key=lambda each: (each.device_type, not each.chosen, each.name)),
            rollouts=rollouts,
            devices=devices,
            types=hub.builds.orders.types(version.name),
            targets=known_targets(),
        )

    return pages
