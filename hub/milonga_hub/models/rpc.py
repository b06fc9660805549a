"""The model registry over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from milonga.v1 import models_pb2 as pb
from milonga.v1 import models_pb2_grpc, projects_pb2

from milonga_hub.bridge import to_proto
from milonga_hub.builds.service import BuildService
from milonga_hub.callers import seen_projects
from milonga_hub.errors import InvalidInput
from milonga_hub.models.imports import ModelImports, Sent
from milonga_hub.models.service import ModelService
from milonga_hub.uploads import Upload, Uploads

_CHUNK_BYTES = 1 << 20


class ModelRpc(models_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: ModelService, builds: BuildService, imports: ModelImports, uploads: Uploads) -> None:
        """`uploads` holds files while they arrive."""
        self._models, self._builds, self._imports, self._uploads = models, builds, imports, uploads

    async def ImportModel(
        self, request_iterator: AsyncIterator[pb.ImportModelRequest], context: Any
    ) -> pb.ImportModelResponse:
        with self._uploads.receiving() as upload:
            sent = await self._receive(request_iterator, upload)
            run = await self._imports.take(sent, upload.path)
        return pb.ImportModelResponse(
            run=to_proto(run, projects_pb2.Run),
            imported=to_proto(run.imported, pb.ImportedModel) if run.imported is not None else None,
        )

    async def _receive(self, requests: AsyncIterator[pb.ImportModelRequest], upload: Upload) -> Sent:
        sent = None
        async for request in requests:
            if sent is None:
                if request.WhichOneof("message") != "header":
                    raise InvalidInput("the first message must be the header, naming the project and the file")
                sent = _sent(request.header)
                self._imports.check(sent)
            elif request.WhichOneof("message") != "chunk":
                raise InvalidInput("messages after the first must be chunks of the file")
            else:
                upload.write(request.chunk)
        if sent is None:
            raise InvalidInput("the upload was empty; send a header and then the file")
        return sent

    async def DownloadNetwork(  # type: ignore[override]
        self, request: pb.DownloadNetworkRequest, context: Any
    ) -> None:
        self._models.get_version(request.name)
        network = await asyncio.to_thread(self._builds.network, request.name, request.device_type)
        async for chunk in _chunks(network):
            await context.write(pb.DownloadNetworkResponse(chunk=chunk))

    async def DownloadCheckpoint(  # type: ignore[override]
        self, request: pb.DownloadCheckpointRequest, context: Any
    ) -> None:
        checkpoint = await asyncio.to_thread(self._models.checkpoint, request.name, request.device_type)
        async for chunk in _chunks(checkpoint):
            await context.write(pb.DownloadCheckpointResponse(chunk=chunk))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        models, token = self._models.list(request.page_size, request.page_token, seen_projects())
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


def _sent(header: pb.ImportModelHeader) -> Sent:
    return Sent(
        project=header.project,
        file_name=header.file_name,
        digest=header.digest,
        classes=[*header.classes],
        mean=[*header.mean],
        std=[*header.std],
        resize=header.resize,
        size_px=header.size_px,
        dataset=header.dataset,
        trust_pickle=header.trust_pickle,
        request_id=header.request_id,
        by=header.by,
    )


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
