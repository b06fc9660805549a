"""Labelling: one picture after the other, with the keyboard; label.js asks, these pages say what there is."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from milonga_hub.callers import signature
from milonga_hub.labelling.models import QueuedSample, SampleState
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.tasks import Task
from milonga_hub.web.pages.page import Part, everything, render
from milonga_hub.web.services import HubServices

# Keys choose classes in this order. Left out: s skips, z undoes.
KEYS = "1234567890abcdefghijklmnopqrtuvwxy"
_SHOWN_DONE = 24
_SHOWN_CONFLICTS = 24


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()
    _add_looking(pages, hub)
    _add_changing(pages, hub)
    return pages


def _address(project: str) -> str:
    return f"/labelling/{quote(project, safe='')}"


def _add_looking(pages: APIRouter, hub: HubServices) -> None:
    @pages.get("/labelling")
    def all_of_them(request: Request) -> HTMLResponse:
        projects = everything(lambda token: hub.projects.list(page_token=token), at_most=200)
        return render(
            request,
            "labelling_projects.html",
            live="samples/",
            summaries=[hub.labelling.summary(project.name) for project in projects],
        )

    @pages.get("/labelling/{name}")
    def one(request: Request, name: str) -> HTMLResponse:
        """Show the station; in a thread of its own, as many samples are counted."""
        project = hub.projects.get(name)
        classes = list(hub.labelling.classes(name))
        detection = project.spec.task is Task.DETECTION
        return render(
            request,
            "labelling.html",
            live=f"samples/{name}",
            # What is asked stays as it is while counts change beside it.
            live_part=Part("standing", f"{_address(name)}/standing"),
            script="label",
            project=project,
            summary=hub.labelling.summary(name),
            done=_done(hub, name),
            conflicts=_conflicts(hub, name),
            detection=detection,
            classes=classes,
            # N goes to the next box.
            keyed=list(zip(KEYS.replace("n", "") if detection else KEYS, classes, strict=False)),
        )

    @pages.get("/labelling/{name}/standing")
    def standing(request: Request, name: str) -> HTMLResponse:
        summary = hub.labelling.summary(name)
        return render(
            request, "labelling_standing.html", summary=summary, done=_done(hub, name), conflicts=_conflicts(hub, name)
        )


def _done(hub: HubServices, project: str) -> list[QueuedSample]:
    """Return the newest samples that are not asked about, for people to look at."""
    found, _ = hub.labelling.list(project, page_size=4 * _SHOWN_DONE)
    return [one for one in found if one.decided_at is not None or one.message][:_SHOWN_DONE]


def _conflicts(hub: HubServices, project: str) -> list[QueuedSample]:
    """Return the newest samples of which two people said different things."""
    return hub.labelling.list(project, SampleState.CONFLICT, page_size=_SHOWN_CONFLICTS)[0]


def _add_changing(pages: APIRouter, hub: HubServices) -> None:
    @pages.post("/labelling/{name}/sampling/{state}")
    def switch(name: str, state: str) -> RedirectResponse:
        spec = hub.projects.get(name).spec
        samples = spec.samples.model_copy(update={"enabled": state == "on"})
        hub.projects.apply(name, ProjectSpec.model_validate(spec.model_copy(update={"samples": samples}).model_dump()))
        return RedirectResponse(_address(name), status_code=303)

    @pages.post("/labelling/{name}/conflicts")
    def decide(
        name: str, sample: Annotated[str, Form()], choice: Annotated[str, Form()], revision: Annotated[int, Form()]
    ) -> RedirectResponse:
        """Take what one of both said, by its place; else nothing is worth a label. Where somebody else was faster, say so."""
        opinions = hub.labelling.get(sample).opinions
        if choice.isascii() and choice.isdigit() and int(choice[:2]) < len(opinions):
            taken = opinions[int(choice)]
            hub.labelling.label(sample, taken.label, taken.boxes, decided_by=signature(""), revision=revision)
        else:
            hub.labelling.skip(sample, signature(""), revision)
        return RedirectResponse(f"{_address(name)}#conflicts", status_code=303)

    @pages.post("/labelling/{name}/discard")
    def discard(name: str) -> RedirectResponse:
        hub.labelling.discard(name)
        return RedirectResponse(_address(name), status_code=303)

    @pages.post("/labelling/{name}/add")
    def add(name: str) -> RedirectResponse:
        hub.labelling.add_labelled(name)
        return RedirectResponse(_address(name), status_code=303)
