"""Bring a model that was trained elsewhere: which file, for which project, and what the file does not say itself."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from milonga_hub.callers import Role, caller
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/new/models")
    async def new(request: Request, project: str = "") -> HTMLResponse:
        return render(
            request,
            "new_model.html",
            script="model",
            project=project,
            projects=everything(lambda token: hub.projects.list(page_token=token)),
            datasets=everything(lambda token: hub.datasets.list(page_token=token)),
            # Loading a pickle runs what is in it, on the hub.
            may_trust=caller().role.may(Role.ADMIN),
            max_bytes=hub.settings.max_upload_bytes,
            request_id=secrets.token_hex(16),
        )

    return pages
