"""One build: its gates and figures, what was done for it, and what a person may decide of it."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from milonga_hub.builds.rules import objection_to
from milonga_hub.web.pages.page import render
from milonga_hub.web.services import HubServices

# The end of a log is what people look for; all of it can be downloaded.
_SHOWN_LETTERS = 20_000


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/models/{model}/versions/{number}/builds/{build}")
    async def one(request: Request, model: str, number: int, build: str) -> HTMLResponse:
        found = hub.builds.get(_name(model, number, build))
        manifest = json.loads(hub.builds.manifest_text(found.name)) if found.bundle else None
        log = hub.builds.log(found.name)
        return render(
            request,
            "build.html",
            live=f"builds/{found.name}",
            build=found,
            model=model,
            number=number,
            objection=objection_to(found),
            log=log[-_SHOWN_LETTERS:],
            log_is_cut=len(log) > _SHOWN_LETTERS,
            manifest=json.dumps(manifest, indent=1, ensure_ascii=False)[:_SHOWN_LETTERS] if manifest else "",
        )

    @pages.post("/models/{model}/versions/{number}/builds")
    async def start(
        model: str, number: int, device_type: Annotated[str, Form()], target: Annotated[str, Form()]
    ) -> RedirectResponse:
        return _to(hub.builds.start(f"models/{model}/versions/{number}", device_type, target).name)

    @pages.post("/models/{model}/versions/{number}/builds/{build}/cancel")
    async def cancel(model: str, number: int, build: str) -> RedirectResponse:
        return _to(hub.builds.cancel(_name(model, number, build)).name)

    @pages.post("/models/{model}/versions/{number}/builds/{build}/override")
    async def override(
        model: str, number: int, build: str, by: Annotated[str, Form()] = "", reason: Annotated[str, Form()] = ""
    ) -> RedirectResponse:
        return _to(hub.builds.override(_name(model, number, build), by, reason).name)

    @pages.post("/models/{model}/versions/{number}/builds/{build}/choose")
    async def choose(model: str, number: int, build: str) -> RedirectResponse:
        return _to(hub.builds.choose(_name(model, number, build)).name)

    return pages


def _name(model: str, number: int, build: str) -> str:
    return f"models/{model}/versions/{number}/builds/{build}"


def _to(name: str) -> RedirectResponse:
    return RedirectResponse(f"/{quote(name)}", status_code=303)
