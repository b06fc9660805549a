"""The registry over REST."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel

from milonga_hub.callers import seen_projects
from milonga_hub.models.models import Model, ModelVersion
from milonga_hub.models.service import ModelService
from milonga_hub.web.views import PageSize, PageToken


class ModelPage(BaseModel):
    models: list[Model]
    next_page_token: str


class ModelVersionPage(BaseModel):
    model_versions: list[ModelVersion]
    next_page_token: str


def router(models: ModelService) -> APIRouter:
    api = APIRouter(tags=["models"])

    @api.get("/models")
    async def list_models(page_size: PageSize = 0, page_token: PageToken = "") -> ModelPage:
        found, token = models.list(page_size, page_token, seen_projects())
        return ModelPage(models=found, next_page_token=token)

    @api.get("/models/{model}/versions")
    async def list_versions(model: str, page_size: PageSize = 0, page_token: PageToken = "") -> ModelVersionPage:
        """List the versions of a model, the newest first."""
        found, token = models.versions(model, page_size, page_token)
        return ModelVersionPage(model_versions=found, next_page_token=token)

    @api.get("/models/{model}/versions/{number}")
    async def get_version(model: str, number: int) -> ModelVersion:
        return models.get_version(f"models/{model}/versions/{number}")

    @api.get("/models/{model}/versions/{number}/checkpoints/{device_type}")
    def get_checkpoint(model: str, number: int, device_type: str) -> FileResponse:
        """Send the chosen subnet of a device type as ultralytics loads it: YOLO("subnet.pt")."""
        path = models.checkpoint(f"models/{model}/versions/{number}", device_type)
        return FileResponse(path, filename=f"{model}-v{number}-{device_type}.pt", media_type="application/octet-stream")

    return api
