"""Projects, and one with its spec, its runs and versions."""

from __future__ import annotations

import secrets
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from milonga_hub.runs.models import Trigger
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/projects")
    async def all_of_them(request: Request) -> HTMLResponse:
        projects = everything(lambda token: hub.projects.list(page_token=token))
        newest = {project.name: hub.runs.latest(project.name) for project in projects}
        return render(request, "projects.html", live="projects/", projects=projects, newest=newest)

    @pages.get("/projects/{name}")
    async def one(request: Request, name: str) -> HTMLResponse:
        project = hub.projects.get(name)
        runs, _ = hub.runs.list(name, page_size=20)
        versions, _ = hub.models.versions(name, page_size=20)
        rollouts, _ = hub.rollouts.headlines(name, page_size=10)
        accuracy = hub.telemetry.estimated_accuracy(name)
        drift, _ = hub.telemetry.drift_events(name, page_size=10)
        return render(
            request,
            "project.html",
            live=f"projects/{name},rollouts/,drift/{name}",
            project=project,
            spec=project.spec,
            runs=runs,
            due=hub.triggers.due_run(name),
            versions=versions,
            rollouts=rollouts,
            drift=drift,
            accuracy=accuracy,
            request_id=secrets.token_hex(16),
        )

    @pages.post("/projects/{name}/runs")
    async def start(name: str, request_id: Annotated[str, Form()] = "") -> RedirectResponse:
        run = hub.runs.start(name, Trigger.MANUAL, "started on the dashboard", request_id)
        return RedirectResponse(f"/runs/{quote(run.project, safe='')}/{run.number}", status_code=303)

    return pages
