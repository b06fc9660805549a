"""A whole hub in the test's own process, and a model version on it that nobody trained."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from milonga_hub.app import Hub
from milonga_hub.blobs import digest_of
from milonga_hub.builds.service import BuildService
from milonga_hub.models.service import ModelService
from milonga_hub.projects.models import ProjectSpec
from milonga_hub.settings import Settings

from tests.databases import database_setting
from tests.web.filled import pictures

PROJECT = "digits"


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Hub]:
    """Serve on free ports until the block ends."""
    hub = Hub(
        Settings(
            data_dir=folder,
            database_url=database_setting(folder),
            http_port=0,
            grpc_port=0,
            device_port=0,
            mqtt_port=0,
            **settings,
        )
    )
    try:
        async with hub.running():
            yield hub
    finally:
        hub.close()


def give_project(hub: Hub, folder: Path) -> None:
    """Make the project that versions belong to."""
    folder.mkdir(parents=True)
    archive = folder / "pictures.zip"
    archive.write_bytes(pictures())
    hub.datasets.import_archive(PROJECT, archive, append=False, strict=False)
    hub.projects.apply(PROJECT, ProjectSpec(dataset=PROJECT))


def release(
    models: ModelService,
    builds: BuildService,
    folder: Path,
    number: int,
    types: Sequence[str],
    size_bytes: int = 50_000,
    measured_ms: float | None = None,
) -> str:
    """Put version `number` into the registry, with a verified and signed build for each type; return its name.

    Builds take `measured_ms` on devices, as if one had been measured.
    """
    run = f"projects/{PROJECT}/runs/{number}"
    version = models.create_version(PROJECT, run, f"datasets/{PROJECT}/versions/1", "", {}, {}).name
    for kind in types:
        (build,) = builds.record(version, kind, [_result(version, kind, folder, size_bytes)], None)
        builds.set_measured(build.name, measured_ms)
        builds.choose(build.name)
    return version


def _result(version: str, kind: str, folder: Path, size_bytes: int) -> dict[str, Any]:
    made = folder / f"{version.replace('/', '-')}-{kind}"
    made.mkdir(parents=True)
    manifest = {"project": PROJECT, "model_version": version, "device_type": kind, "subnet": "sha256:" + "0" * 64}
    contents = {"manifest.json": json.dumps(manifest).encode(), "model.onnx": os.urandom(size_bytes)}
    for path, content in contents.items():
        (made / path).write_bytes(content)
    files = [
        {"path": path, "digest": digest_of(content), "size_bytes": len(content)} for path, content in contents.items()
    ]
    return {
        "engine": "onnxruntime", "precision": "fp32", "state": "VERIFIED", "reason": "", "directory": str(made),
        "files": files, "size_bytes": size_bytes, "bundle": files[0]["digest"], "accuracy": 0.95,
        "subnet_accuracy": 0.95, "max_abs_error": 0.0,
    }  # fmt: skip
