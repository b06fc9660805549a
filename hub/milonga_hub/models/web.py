"""The registry over REST."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel

from milonga_hub.callers import seen_projects
from milonga_hub.models.imports import ModelImports, Sent
from milonga_hub.models.models import ImportedModel, Model, ModelVersion
from milonga_hub.models.service import ModelService
from milonga_hub.runs.models import RunView
from milonga_hub.uploads import Uploads, whole_body
from milonga_hub.web.views import PageSize, PageToken, files, view

# The file itself, which no form wraps: it goes to the disk once.
_RAW: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class ModelPage(BaseModel):
    models: list[Model]
    next_page_token: str


class ModelVersionPage(BaseModel):
    model_versions: list[ModelVersion]
    next_page_token: str


class TakenModel(BaseModel):
    # What builds it.
    run: RunView
    imported: ImportedModel | None


def router(models: ModelService, imports: ModelImports, uploads: Uploads) -> APIRouter:
    """`uploads` holds files while they arrive."""
    api = APIRouter(tags=["models"])
    _add_reading(api, models)
    _add_import(api, imports, uploads)
    return api


def _add_import(api: APIRouter, imports: ModelImports, uploads: Uploads) -> None:
    @api.post("/projects/{project}/models:import", status_code=201, openapi_extra=_RAW)
    async def import_model(
        request: Request,
        project: str,
        file_name: Annotated[str, Query(description="Its name, which ends in .onnx or .pt.")],
        digest: str = "",
        classes: Annotated[
            list[str], Query(description="In the order of its outputs, where the file lacks them.")
        ] = [],  # noqa: B006
        mean: Annotated[list[float], Query()] = [],  # noqa: B006
        std: Annotated[list[float], Query()] = [],  # noqa: B006
        resize: str = "",
        size_px: int = 0,
        dataset: str = "",
        trust_pickle: bool = False,
        request_id: str = "",
    ) -> TakenModel:
        """Send a model that was trained elsewhere as the whole body; its run builds it for the project's devices."""
        sent = Sent(
            project=project,
            file_name=file_name,
            digest=digest,
            classes=classes,
            mean=mean,
            std=std,
            resize=resize,
            size_px=size_px,
            dataset=dataset,
            trust_pickle=trust_pickle,
            request_id=request_id,
        )
        imports.check(sent)
        async with whole_body(request, uploads) as path:
            run = await imports.take(sent, path)
        return TakenModel(run=view(RunView, run), imported=run.imported)


def _add_reading(api: APIRouter, models: ModelService) -> None:

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

    @api.get(
        "/models/{model}/versions/{number}/checkpoints/{device_type}",
        response_class=Response,
        responses=files("application/octet-stream"),
    )
    def get_checkpoint(model: str, number: int, device_type: str) -> FileResponse:
        """Send the chosen subnet of a device type as ultralytics loads it: YOLO("subnet.pt")."""
        path = models.checkpoint(f"models/{model}/versions/{number}", device_type)
        return FileResponse(path, filename=f"{model}-v{number}-{device_type}.pt", media_type="application/octet-stream")
