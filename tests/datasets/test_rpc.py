"""Data sets over a real gRPC server: uploads arrive in chunks, and end in a version or in words."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from milonga.v1 import datasets_pb2 as pb
from milonga.v1 import datasets_pb2_grpc
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.rpc import DatasetRpc
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.transports import grpc as grpc_transport

from tests.certificates import Tls
from tests.databases import database_url
from tests.datasets.test_datasets import _packed, _pictures

FOLDER = tempfile.TemporaryDirectory()
TLS = Tls(Path(FOLDER.name))

_CHUNK_BYTES = 4096
Requests = Iterable[pb.ImportDatasetRequest]


@pytest.fixture
def service(tmp_path: Path) -> DatasetService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return DatasetService(database, BlobStore(tmp_path / "blobs"), EventBus())


@asynccontextmanager
async def _serving(rpc: DatasetRpc) -> AsyncIterator[Any]:
    server, port = await grpc_transport.serve([rpc], "127.0.0.1", 0, TLS.server(), gate=None)
    try:
        async with TLS.channel(f"127.0.0.1:{port}") as channel:
            yield datasets_pb2_grpc.DatasetServiceStub(channel)
    finally:
        await server.stop(0)


def _upload(data: bytes, **header: Any) -> Iterator[pb.ImportDatasetRequest]:
    yield pb.ImportDatasetRequest(header=pb.ImportDatasetHeader(dataset="digits", **header))
    for start in range(0, len(data), _CHUNK_BYTES):
        yield pb.ImportDatasetRequest(chunk=data[start : start + _CHUNK_BYTES])


def _import(rpc: DatasetRpc, *uploads: Requests) -> list[pb.DatasetVersion]:
    async def send() -> list[pb.DatasetVersion]:
        async with _serving(rpc) as stub:
            return [(await stub.ImportDataset(iter(one))).dataset_version for one in uploads]

    return asyncio.run(send())


def _refused(rpc: DatasetRpc, upload: Requests) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _import(rpc, upload)
    return caught.value.code(), caught.value.details() or ""


def test_an_upload_in_chunks_becomes_a_version_and_leaves_nothing_behind(
    service: DatasetService, tmp_path: Path
) -> None:
    data = _packed(_pictures(tmp_path / "a")).read_bytes()
    first, again = _import(
        DatasetRpc(service, tmp_path / "uploads"), _upload(data, request_id="1"), _upload(data, request_id="1")
    )
    assert first.name == "datasets/digits/versions/1" and again == first
    assert first.train_count + first.validation_count == 60
    assert list((tmp_path / "uploads").iterdir()) == []


def test_half_an_upload_is_refused_and_leaves_nothing(service: DatasetService, tmp_path: Path) -> None:
    data = _packed(_pictures(tmp_path / "a")).read_bytes()
    code, words = _refused(DatasetRpc(service, tmp_path / "uploads"), _upload(data[: len(data) // 2]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "send it again" in words
    assert list((tmp_path / "uploads").iterdir()) == [] and service.list() == ([], "")


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        ([], "the upload was empty"),
        ([pb.ImportDatasetRequest(chunk=b"x")], "the first message must be the header"),
        ([*_upload(b""), *_upload(b"")], "messages after the first must be chunks"),
        (list(_upload(b"")), "not a whole zip or tar archive"),
    ],
)
def test_an_upload_out_of_order_is_refused(
    service: DatasetService, tmp_path: Path, upload: Requests, said: str
) -> None:
    code, words = _refused(DatasetRpc(service, tmp_path / "uploads"), upload)
    assert code is grpc.StatusCode.INVALID_ARGUMENT and said in words


def test_an_upload_larger_than_the_hub_takes_says_how_to_go_on(service: DatasetService, tmp_path: Path) -> None:
    code, words = _refused(DatasetRpc(service, tmp_path / "uploads", 10_000), _upload(bytes(20_000)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "10,000 bytes" in words and "MILONGA_MAX_UPLOAD_BYTES" in words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_told(service: DatasetService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_full_disk(dir: Path) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(dir / "upload")

    rpc = DatasetRpc(service, tmp_path / "uploads")
    monkeypatch.setattr("milonga_hub.uploads.tempfile.mkstemp", on_a_full_disk)
    code, words = _refused(rpc, _upload(b"x"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "disk is full" in words


def test_what_a_killed_hub_left_half_uploaded_is_cleared(service: DatasetService, tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "tmp123").write_bytes(b"half")
    DatasetRpc(service, tmp_path / "uploads")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_version_goes_out_in_small_messages_that_tell_how_far_it_is(service: DatasetService, tmp_path: Path) -> None:
    version = service.import_archive("digits", _packed(_pictures(tmp_path / "a")), append=False, strict=False)
    request = pb.DownloadDatasetVersionRequest(name=version.name)

    async def fetched() -> list[pb.DownloadDatasetVersionResponse]:
        async with _serving(DatasetRpc(service, tmp_path / "uploads")) as stub:
            return [each async for each in stub.DownloadDatasetVersion(request)]

    sent = asyncio.run(fetched())
    told = [each.written_count for each in sent]
    assert told == sorted(told) and told[0] < told[-1] == sent[0].picture_count == 60
    archive = tmp_path / "out.zip"
    archive.write_bytes(b"".join(each.chunk for each in sent))
    assert service.import_archive("again", archive, append=False, strict=True).digest == version.digest
    request.layout = pb.DATASET_LAYOUT_COCO
    with pytest.raises(grpc.aio.AioRpcError, match="export it as class folders"):
        asyncio.run(fetched())
