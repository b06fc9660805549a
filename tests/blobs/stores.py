"""Stores of blobs to test with: folders, what fsspec has in memory and on disk, and a server that speaks S3."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import fsspec
from milonga_hub.blobs.cache import Cache
from milonga_hub.blobs.objects import ObjectBlobs
from milonga_hub.blobs.places import open_stores

SECRET = "a-secret-that-no-log-shows"
MISSING = [name for name in ("s3fs", "moto", "flask") if importlib.util.find_spec(name) is None]
WITHOUT_S3 = f"needs {', '.join(MISSING)}: pip install --group objects" if MISSING else ""


@dataclass(frozen=True)
class S3:
    """A server that speaks S3, with one bucket."""

    url: str


@contextmanager
def s3() -> Iterator[S3]:
    """Serve until the block ends; who opens a URL of it finds credentials and address in the environment, as on a real machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ACCESS_KEY_ID": "hub",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    try:
        with mock.patch.dict(os.environ, told):
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir("fleet")
            yield S3("s3://fleet/hub")
    finally:
        server.stop()


def in_s3(server: S3, folder: Path, cache_bytes: int = 1 << 30) -> ObjectBlobs:
    """Return a store of its own on the server, and its cache in the folder."""
    blobs = open_stores(folder, f"{server.url}-{uuid.uuid4().hex}", cache_bytes).blobs
    assert isinstance(blobs, ObjectBlobs)
    return blobs


def in_memory(folder: Path, cache_bytes: int = 1 << 30) -> ObjectBlobs:
    store = fsspec.filesystem("memory", skip_instance_cache=True)
    prefix = f"/{uuid.uuid4().hex}"
    return ObjectBlobs(store, prefix, f"memory:/{prefix}", Cache(folder, cache_bytes), ())


def on_fsspec_disk(folder: Path, cache_bytes: int = 1 << 30) -> ObjectBlobs:
    store = fsspec.filesystem("file", skip_instance_cache=True)
    root = folder / "far"
    return ObjectBlobs(store, str(root), str(root), Cache(folder / "near", cache_bytes), ())
