"""Data sets over REST."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel

from milonga_hub.datasets.models import Dataset, DatasetVersion, DatasetVersionView
from milonga_hub.datasets.service import DatasetService
from milonga_hub.web.views import PageSize, PageToken, view, views


class DatasetPage(BaseModel):
    datasets: list[Dataset]
    next_page_token: str


class DatasetVersionPage(BaseModel):
    dataset_versions: list[DatasetVersionView]
    next_page_token: str


def router(datasets: DatasetService) -> APIRouter:
    api = APIRouter(tags=["datasets"])

    @api.get("/datasets")
    async def list_datasets(page_size: PageSize = 0, page_token: PageToken = "") -> DatasetPage:
        found, token = datasets.list(page_size, page_token)
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

    @api.post("/datasets/{dataset}/versions", status_code=201)
    async def import_dataset(
        dataset: str,
        archive: Annotated[
            UploadFile, File(description="zip or tar of CLASS/PICTURE, or of data.yaml, images/ and labels/")
        ],
        append: Annotated[bool, Form()] = False,
        strict: Annotated[bool, Form()] = False,
        request_id: Annotated[str, Form()] = "",
    ) -> DatasetVersionView:
        """Send an archive of class folders, or in YOLO's layout, as a new version."""
        version = await asyncio.to_thread(_import, datasets, dataset, archive, append, strict, request_id)
        return view(DatasetVersionView, version)

    return api


def _import(
    datasets: DatasetService, dataset: str, archive: UploadFile, append: bool, strict: bool, request_id: str
) -> DatasetVersion:
    with tempfile.TemporaryDirectory(prefix="milonga-") as folder:
        path = Path(folder) / "upload"
        with path.open("wb") as file:
            shutil.copyfileobj(archive.file, file)
        return datasets.import_archive(dataset, path, append, strict, request_id)
