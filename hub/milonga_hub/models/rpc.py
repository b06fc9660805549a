"""The model registry over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from milonga.v1 import models_pb2 as pb
from milonga.v1 import models_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.models.service import ModelService

_CHUNK_BYTES = 1 << 20


class ModelRpc(models_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: ModelService) -> None:
        self._models = models

    async def DownloadCheckpoint(  # type: ignore[override]
        self, request: pb.DownloadCheckpointRequest, context: Any
    ) -> None:
        with self._models.checkpoint(request.name, request.device_type).open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                await context.write(pb.DownloadCheckpointResponse(chunk=chunk))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        models, token = self._models.list(request.page_size, request.page_token)
        return pb.ListModelsResponse(models=[to_proto(one, pb.Model) for one in models], next_page_token=token)

    async def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Any) -> pb.GetModelVersionResponse:
        version = self._models.get_version(request.name)
        return pb.GetModelVersionResponse(model_version=to_proto(version, pb.ModelVersion))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        versions, token = self._models.versions(request.model, request.page_size, request.page_token)
        messages = [to_proto(one, pb.ModelVersion) for one in versions]
        return pb.ListModelVersionsResponse(model_versions=messages, next_page_token=token)
