"""Data sets over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from milonga.v1 import datasets_pb2 as pb
from milonga.v1 import datasets_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.callers import need_dataset, seen_datasets
from milonga_hub.datasets.service import DatasetService
from milonga_hub.datasets.values import Layout
from milonga_hub.errors import InvalidInput
from milonga_hub.uploads import Upload, Uploads

_CHUNK_BYTES = 1 << 20
_LAYOUTS = {pb.DatasetLayout.Value(f"DATASET_LAYOUT_{each.name}"): each for each in Layout}


class DatasetRpc(datasets_pb2_grpc.DatasetServiceServicer):
    def __init__(self, datasets: DatasetService, uploads: Path, max_upload_bytes: int = 64 << 30) -> None:
        """`uploads` holds archives while they arrive."""
        self._datasets = datasets
        self._uploads = Uploads(uploads, max_upload_bytes)

    async def ImportDataset(
        self, request_iterator: AsyncIterator[pb.ImportDatasetRequest], context: Any
    ) -> pb.ImportDatasetResponse:
        with self._uploads.receiving() as upload:
            header = await self._receive(request_iterator, upload)
            version = await asyncio.to_thread(
                self._datasets.import_archive,
                header.dataset,
                upload.path,
                header.append,
                header.strict,
                header.request_id,
            )
        return pb.ImportDatasetResponse(dataset_version=to_proto(version, pb.DatasetVersion))

    async def _receive(
        self, requests: AsyncIterator[pb.ImportDatasetRequest], upload: Upload
    ) -> pb.ImportDatasetHeader:
        header = None
        async for request in requests:
            if header is None:
                if request.WhichOneof("message") != "header":
                    raise InvalidInput("the first message must be the header, naming the data set")
                header = request.header
                need_dataset(header.dataset, to_change=True)
                await asyncio.to_thread(self._datasets.check_room, header.dataset)
            elif request.WhichOneof("message") != "chunk":
                raise InvalidInput("messages after the first must be chunks of the archive")
            else:
                upload.write(request.chunk)
        if header is None:
            raise InvalidInput("the upload was empty; send a header and then the archive")
        return header

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=to_proto(self._datasets.get(request.name), pb.Dataset))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        datasets, token = self._datasets.list(request.page_size, request.page_token, seen_datasets())
        return pb.ListDatasetsResponse(datasets=[to_proto(one, pb.Dataset) for one in datasets], next_page_token=token)

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Any
    ) -> pb.ListDatasetVersionsResponse:
        versions, token = self._datasets.versions(request.dataset, request.page_size, request.page_token)
        messages = [to_proto(one, pb.DatasetVersion) for one in versions]
        return pb.ListDatasetVersionsResponse(dataset_versions=messages, next_page_token=token)

    async def DownloadDatasetVersion(
        self, request: pb.DownloadDatasetVersionRequest, context: Any
    ) -> AsyncIterator[pb.DownloadDatasetVersionResponse]:
        """Send the file as it is written: no more of it than one picture waits here."""
        need_dataset(request.name.removeprefix("datasets/").partition("/")[0])
        if request.layout and request.layout not in _LAYOUTS:
            raise InvalidInput(
                f"layout {request.layout} is not known here; known are {', '.join(pb.DatasetLayout.keys()[1:])}"
            )
        layout = _LAYOUTS.get(request.layout)
        export = await asyncio.to_thread(self._datasets.export, request.name, layout)
        pieces = export.pieces()
        while piece := await asyncio.to_thread(next, pieces, None):
            for start in range(0, len(piece.data), _CHUNK_BYTES):
                yield pb.DownloadDatasetVersionResponse(
                    chunk=piece.data[start : start + _CHUNK_BYTES],
                    written_count=piece.written_count,
                    picture_count=export.count,
                )
