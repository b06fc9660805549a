"""Data sets over REST."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from milonga_hub.callers import seen_datasets
from milonga_hub.datasets.models import Dataset, DatasetVersionView
from milonga_hub.datasets.service import DatasetService
from milonga_hub.datasets.values import Layout
from milonga_hub.events import EventBus
from milonga_hub.uploads import Uploads, whole_body
from milonga_hub.web.views import PageSize, PageToken, files, view, views

_CHUNK_BYTES = 1 << 20
# The archive itself, which no form wraps: it goes to the disk once.
_RAW: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class ImportProgress(BaseModel):
    """Pictures that were read of an archive; sent as events on imports/{request_id}."""

    done: int
    total: int


class DatasetPage(BaseModel):
    datasets: list[Dataset]
    next_page_token: str


class DatasetVersionPage(BaseModel):
    dataset_versions: list[DatasetVersionView]
    next_page_token: str


def router(datasets: DatasetService, uploads: Uploads, events: EventBus) -> APIRouter:
    api = APIRouter(tags=["datasets"])
    _add_reading(api, datasets)
    _add_imports(api, datasets, uploads, events)
    _add_export(api, datasets)
    return api


def _add_reading(api: APIRouter, datasets: DatasetService) -> None:
    @api.get("/datasets")
    async def list_datasets(page_size: PageSize = 0, page_token: PageToken = "") -> DatasetPage:
        found, token = datasets.list(page_size, page_token, seen_datasets())
        return DatasetPage(datasets=found, next_page_token=token)

    @api.get("/datasets/{dataset}")
    async def get_dataset(dataset: str) -> Dataset:
        return datasets.get(dataset)

    @api.get("/datasets/{dataset}/versions")
    async def list_versions(dataset: str, page_size: PageSize = 0, page_token: PageToken = "") -> DatasetVersionPage:
        found, token = datasets.versions(dataset, page_size, page_token)
        return DatasetVersionPage(dataset_versions=views(DatasetVersionView, found), next_page_token=token)

    @api.get("/datasets/{dataset}/versions/{number}")
    async def get_version(dataset: str, number: int) -> DatasetVersionView:
        return view(DatasetVersionView, datasets.get_version(f"datasets/{dataset}/versions/{number}"))


def _add_imports(api: APIRouter, datasets: DatasetService, uploads: Uploads, events: EventBus) -> None:
    @api.post("/datasets/{dataset}:import", status_code=201, openapi_extra=_RAW)
    async def import_archive(
        request: Request, dataset: str, append: bool = False, strict: bool = False, request_id: str = ""
    ) -> DatasetVersionView:
        """Send an archive as the whole body (curl --data-binary @pictures.zip); imports/{request_id} tells progress."""
        datasets.check_name(dataset)
        await asyncio.to_thread(datasets.check_room, dataset)
        async with whole_body(request, uploads) as path:
            tell = _telling(events, request_id)
            version = await asyncio.to_thread(datasets.import_archive, dataset, path, append, strict, request_id, tell)
        return view(DatasetVersionView, version)

    @api.post("/datasets/{dataset}/versions", status_code=201)
    async def import_form(
        dataset: str,
        archive: Annotated[
            UploadFile, File(description="zip or tar of CLASS/PICTURE, or in the layout of YOLO, COCO or Pascal VOC")
        ],
        append: Annotated[bool, Form()] = False,
        strict: Annotated[bool, Form()] = False,
        request_id: Annotated[str, Form()] = "",
    ) -> DatasetVersionView:
        """Send an archive of class folders, or in the layout of YOLO, COCO or Pascal VOC, as a new version."""
        with uploads.receiving() as upload:
            while chunk := await archive.read(_CHUNK_BYTES):
                upload.write(chunk)
            version = await asyncio.to_thread(datasets.import_archive, dataset, upload.path, append, strict, request_id)
        return view(DatasetVersionView, version)


def _add_export(api: APIRouter, datasets: DatasetService) -> None:
    @api.get(
        "/datasets/{dataset}/versions/{number}/archive",
        response_class=StreamingResponse,
        responses=files("application/zip"),
    )
    async def export_version(dataset: str, number: int, layout: Layout | None = None) -> StreamingResponse:
        """Send a version as a zip file in a layout that other tools know; left out: class folders to classify, YOLO to detect."""
        export = await asyncio.to_thread(datasets.export, f"datasets/{dataset}/versions/{number}", layout)
        headers = {
            "Content-Disposition": f'attachment; filename="{export.file_name}"',
            "Milonga-Picture-Count": str(export.count),
        }
        # Not held together by a size: it is written while it is sent.
        return StreamingResponse(
            (piece.data for piece in export.pieces()), media_type="application/zip", headers=headers
        )


def _telling(events: EventBus, request_id: str) -> Callable[[int, int], None] | None:
    """Return what publishes each per cent of an import; None where nobody could listen."""
    if not request_id:
        return None

    def tell(done: int, total: int) -> None:
        if done == total or done * 100 // total > (done - 1) * 100 // total:
            events.publish(f"imports/{request_id}", ImportProgress(done=done, total=total))

    return tell
