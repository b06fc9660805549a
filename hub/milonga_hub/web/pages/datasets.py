"""Data sets: send one, see how good it is to learn from, and look at its pictures."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from milonga_hub.datasets.rules import TRAIN, VALIDATION
from milonga_hub.datasets.rules_exports import LAYOUTS
from milonga_hub.tasks import Task
from milonga_hub.web.charts.heatmap import heatmap
from milonga_hub.web.charts.splits import splits
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.pages.suspects import suspects
from milonga_hub.web.services import HubServices

_SHOWN_PICTURES = 48
# Twice the width at which a picture stands in the gallery, for fine screens.
_THUMBNAIL_PX = 320
# A picture is addressed by its content, so it never changes.
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()
    _add_sending(pages, hub)
    _add_looking(pages, hub)
    return pages


def _add_sending(pages: APIRouter, hub: HubServices) -> None:
    @pages.get("/new/datasets")
    async def new(request: Request, name: str = "") -> HTMLResponse:
        known = [each.name for each in everything(lambda token: hub.datasets.list(page_token=token))]
        return render(
            request,
            "new_dataset.html",
            script="upload",
            name=name,
            known=known,
            max_bytes=hub.settings.max_upload_bytes,
            request_id=secrets.token_hex(16),
        )


def _add_looking(pages: APIRouter, hub: HubServices) -> None:
    @pages.get("/datasets")
    async def all_of_them(request: Request) -> HTMLResponse:
        datasets = everything(lambda token: hub.datasets.list(page_token=token))
        newest = {each.name: hub.datasets.latest(each.name) for each in datasets}
        return render(request, "datasets.html", live="datasets/", datasets=datasets, newest=newest)

    @pages.get("/datasets/{name}")
    def one(
        request: Request,
        name: str,
        label: str = "",
        split: str = "",
        start: Annotated[int, Query(ge=0)] = 0,
        version: int | None = None,
    ) -> HTMLResponse:
        """Show a version, the newest unless it is named; in a thread of its own, as all of its pictures are counted."""
        newest = hub.datasets.latest(name)
        shown = newest if version is None else hub.datasets.get_version(f"datasets/{name}/versions/{version}")
        projects, health = _projects_on(hub, name), hub.datasets.health(shown.name)
        coverage = hub.datasets.coverage(shown.name, label)
        pictures, count = hub.datasets.samples(shown.name, label, split, start, _SHOWN_PICTURES)
        return render(
            request,
            "dataset.html",
            layouts=LAYOUTS[shown.task],
            live=f"datasets/{name},likeness/{shown.name}",
            shown=shown,
            newest=newest,
            # Only what was asked for: an address without a version goes on showing the newest.
            version=version,
            versions=hub.datasets.versions(name)[0],
            projects=projects,
            health=health,
            splits_compared=splits(health.classes),
            heatmap=heatmap(coverage.counts, coverage.boxes) if coverage else "",
            suspects=suspects(hub, shown, projects),
            sizes=hub.datasets.sizes(shown.name),
            detection=shown.task is Task.DETECTION,
            pictures=pictures,
            count=count,
            start=start,
            step=_SHOWN_PICTURES,
            label=label,
            split=split,
            splits=(TRAIN, VALIDATION),
        )

    @pages.get("/datasets/{name}/pictures/{digest}")
    def picture(name: str, digest: str) -> Response:
        """Return a thumbnail, in a thread of its own: decoding takes its time."""
        hub.datasets.get(name)
        return Response(hub.datasets.thumbnail(digest, _THUMBNAIL_PX), media_type="image/jpeg", headers=_FOR_EVER)


def _projects_on(hub: HubServices, dataset: str) -> list[str]:
    projects = everything(lambda token: hub.projects.list(page_token=token))
    return [project.name for project in projects if project.spec.dataset == dataset]
