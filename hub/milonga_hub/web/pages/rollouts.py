"""Rollouts: waves as columns, and buttons to approve, pause, resume, retry and abort."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from milonga_hub.rollouts.models import LEFT_OUT
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/rollouts")
    async def all_of_them(request: Request) -> HTMLResponse:
        rollouts = everything(lambda token: hub.rollouts.list(page_token=token), at_most=200)
        return render(request, "rollouts.html", live="rollouts/", rollouts=rollouts)

    @pages.get("/rollouts/{id}")
    async def one(request: Request, id: str) -> HTMLResponse:
        rollout = hub.rollouts.get(id)
        simulated = {device.name for device in hub.devices.outlines() if device.simulated}
        return render(
            request,
            "rollout.html",
            live=f"rollouts/{rollout.id}",
            rollout=rollout,
            simulated=simulated,
            newest=hub.rollouts.list(rollout.project, page_size=1)[0][0].id == rollout.id,
            left_out=[device for device in rollout.devices if device.wave == LEFT_OUT],
        )

    @pages.post("/new/rollouts")
    async def create(
        model_version: Annotated[str, Form()], request_id: Annotated[str, Form()] = ""
    ) -> RedirectResponse:
        """Send a version to the devices of the project whose run made it."""
        project = hub.projects.get(hub.models.get_version(model_version).run.split("/")[1])
        made = hub.rollouts.create(model_version, project.name, project.spec.selector, project.spec.rollout, request_id)
        return RedirectResponse(f"/rollouts/{quote(made.id, safe='')}", status_code=303)

    @pages.post("/rollouts/{id}/{verb}")
    async def change(id: str, verb: str) -> RedirectResponse:
        rollouts = hub.rollouts
        verbs = {
            "approve": rollouts.approve,
            "pause": rollouts.pause,
            "resume": rollouts.resume,
            "retry": rollouts.retry,
            "abort": rollouts.abort,
        }
        if verb in verbs:
            verbs[verb](id)
        return RedirectResponse(f"/rollouts/{quote(id, safe='')}", status_code=303)

    return pages
