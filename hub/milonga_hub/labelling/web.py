"""Labelling over REST."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from milonga_hub.callers import signature
from milonga_hub.labelling.models import Labelling, SampleBox, SampleState, SampleView
from milonga_hub.labelling.service import LabellingService
from milonga_hub.web.views import PageSize, PageToken, files, view, views

# A picture is addressed by its content, so it never changes; it may be deleted, so nobody else keeps it for long.
_FOR_A_WHILE = {"Cache-Control": "private, max-age=3600"}


class SamplePage(BaseModel):
    samples: list[SampleView]
    next_page_token: str


class Label(BaseModel):
    """A class, or all objects; or the device's own answer."""

    label: str = ""
    boxes: list[SampleBox] = []
    accept: bool = False
    decided_by: str = ""
    # Of the sample as it was seen; what somebody else decided is not replaced unseen.
    revision: int | None = None


class Skip(BaseModel):
    decided_by: str = ""
    revision: int | None = None


class Undo(BaseModel):
    decided_by: str = ""
    revision: int | None = None


class Added(BaseModel):
    dataset_version: str
    added_count: int


class Discarded(BaseModel):
    discarded_count: int


def router(labelling: LabellingService) -> APIRouter:
    api = APIRouter(tags=["labelling"])
    _add_reading(api, labelling)
    _add_deciding(api, labelling)
    return api


def _name(project: str, sample: str) -> str:
    return f"projects/{project}/samples/{sample}"


def _add_reading(api: APIRouter, labelling: LabellingService) -> None:
    @api.get("/projects/{project}/labelling")
    def get_labelling(project: str) -> Labelling:
        """Return how much waits and is done, and how often devices were right."""
        return labelling.summary(project)

    @api.get("/projects/{project}/samples")
    def list_samples(
        project: str,
        state: SampleState | None = None,
        device: str = "",
        page_size: PageSize = 0,
        page_token: PageToken = "",
    ) -> SamplePage:
        """List samples: those that wait in the order of asking, in one page; others the newest first."""
        found, token = labelling.list(project, state, device, page_size, page_token, signature(""))
        return SamplePage(samples=views(SampleView, found), next_page_token=token)

    @api.get("/projects/{project}/samples/{sample}")
    def get_sample(project: str, sample: str) -> SampleView:
        return view(SampleView, labelling.get(_name(project, sample)))

    @api.get(
        "/projects/{project}/samples/{sample}/picture",
        response_class=Response,
        responses=files("image/png", "image/jpeg"),
    )
    def get_picture(project: str, sample: str) -> Response:
        data, media_type = labelling.picture(_name(project, sample))
        return Response(data, media_type=media_type, headers=_FOR_A_WHILE)


def _add_deciding(api: APIRouter, labelling: LabellingService) -> None:
    @api.post("/projects/{project}/samples/{sample}:label")
    def label_sample(project: str, sample: str, body: Label) -> SampleView:
        name = _name(project, sample)
        by = signature(body.decided_by)
        return view(SampleView, labelling.label(name, body.label, body.boxes, body.accept, by, body.revision))

    @api.post("/projects/{project}/samples/{sample}:skip")
    def skip_sample(project: str, sample: str, body: Skip) -> SampleView:
        return view(SampleView, labelling.skip(_name(project, sample), signature(body.decided_by), body.revision))

    @api.post("/projects/{project}/samples/{sample}:undo")
    def undo_sample(project: str, sample: str, body: Undo = Undo()) -> SampleView:
        """Let the picture wait again, as long as its label is not part of the data set."""
        return view(SampleView, labelling.undo(_name(project, sample), signature(body.decided_by), body.revision))

    @api.post("/projects/{project}/labelling:add")
    async def add_labelled(project: str) -> Added:
        """Make what is labelled part of the project's data set now."""
        version, count = await asyncio.to_thread(labelling.add_labelled, project)
        return Added(dataset_version=version, added_count=count)

    @api.post("/projects/{project}/labelling:discard")
    def discard(project: str) -> Discarded:
        """Delete the pictures that wait."""
        return Discarded(discarded_count=labelling.discard(project))
