"""Data sets and their versions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/datasets")
    async def all_of_them(request: Request) -> HTMLResponse:
        datasets = everything(lambda token: hub.datasets.list(page_token=token))
        versions = {each.name: hub.datasets.versions(each.name)[0] for each in datasets}
        return render(request, "datasets.html", live="datasets/", datasets=datasets, versions=versions)

    return pages
