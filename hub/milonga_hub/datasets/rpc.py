"""Data sets over gRPC."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from milonga.v1 import datasets_pb2 as pb
from milonga.v1 import datasets_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.datasets.service import DatasetService
from milonga_hub.errors import InvalidInput, ResourceExhausted


class DatasetRpc(datasets_pb2_grpc.DatasetServiceServicer):
    def __init__(self, datasets: DatasetService, uploads: Path, max_upload_bytes: int = 64 << 30) -> None:
        """`uploads` holds archives while they arrive; nothing in it outlives its call, or the next start."""
        self._datasets = datasets
        self._uploads = uploads
        self._max_upload_bytes = max_upload_bytes
        uploads.mkdir(parents=True, exist_ok=True)
        for left_over in uploads.iterdir():
            left_over.unlink()

    async def ImportDataset(
        self, request_iterator: AsyncIterator[pb.ImportDatasetRequest], context: Any
    ) -> pb.ImportDatasetResponse:
        descriptor, name = tempfile.mkstemp(dir=self._uploads)
        archive = Path(name)
        try:
            # Unbuffered: a full disk must show while it is written, where it is explained, not on closing.
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                header = await self._receive(request_iterator, file)
            version = await asyncio.to_thread(
                self._datasets.import_archive, header.dataset, archive, header.append, header.strict, header.request_id
            )
        finally:
            archive.unlink(missing_ok=True)
        return pb.ImportDatasetResponse(dataset_version=to_proto(version, pb.DatasetVersion))

    async def _receive(self, requests: AsyncIterator[pb.ImportDatasetRequest], file: Any) -> pb.ImportDatasetHeader:
        header, received_bytes = None, 0
        async for request in requests:
            if header is None:
                if request.WhichOneof("message") != "header":
                    raise InvalidInput("the first message must be the header, naming the data set")
                header = request.header
            elif request.WhichOneof("message") != "chunk":
                raise InvalidInput("messages after the first must be chunks of the archive")
            else:
                received_bytes += len(request.chunk)
                if received_bytes > self._max_upload_bytes:
                    raise ResourceExhausted(
                        f"the archive is larger than the {self._max_upload_bytes:,} bytes that this hub takes; send it in"
                        " parts with --append, or start the hub with a larger MILONGA_MAX_UPLOAD_BYTES"
                    )
                _write(file, request.chunk, self._uploads)
        if header is None:
            raise InvalidInput("the upload was empty; send a header and then the archive")
        return header

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=to_proto(self._datasets.get(request.name), pb.Dataset))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        datasets, token = self._datasets.list(request.page_size, request.page_token)
        return pb.ListDatasetsResponse(datasets=[to_proto(one, pb.Dataset) for one in datasets], next_page_token=token)

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Any
    ) -> pb.ListDatasetVersionsResponse:
        versions, token = self._datasets.versions(request.dataset, request.page_size, request.page_token)
        messages = [to_proto(one, pb.DatasetVersion) for one in versions]
        return pb.ListDatasetVersionsResponse(dataset_versions=messages, next_page_token=token)


def _write(file: Any, chunk: bytes, folder: Path) -> None:
    try:
        left = memoryview(chunk)
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ResourceExhausted(f"the hub's disk is full; free space under {folder} and send it again") from error
        raise
