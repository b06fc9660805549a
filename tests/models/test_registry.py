"""Versions and builds: made once, found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from milonga_compiler.bundle import verify_bundle, write_bundle
from milonga_hub.blobs import BlobStore
from milonga_hub.builds.service import BuildService
from milonga_hub.db import Database
from milonga_hub.errors import NotFound
from milonga_hub.events import EventBus
from milonga_hub.models.service import ModelService
from milonga_hub.tasks import Task

from tests.databases import database_url
from tests.signing.ready import signing


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return database


@pytest.fixture
def builds(database: Database, tmp_path: Path) -> BuildService:
    return BuildService(database, BlobStore(tmp_path / "blobs"), EventBus(), signing(tmp_path / "signing"))


def _result(folder: Path, precision: str = "fp32") -> dict[str, Any]:
    (folder / "weights").write_bytes(precision.encode())
    manifest = {"project": "d", "subnet": "sha256:1", "precision": precision, "reference": {"sample_count": 3}}
    bundle = write_bundle(folder / precision, manifest, {"model.onnx": folder / "weights"})
    return {
        "engine": "onnxruntime", "precision": precision, "state": "VERIFIED", "reason": "",
        "directory": str(bundle.folder), "files": [vars(file) for file in bundle.files], "size_bytes": 9,
        "bundle": bundle.digest, "accuracy": 0.9, "subnet_accuracy": 0.9, "max_abs_error": 0.0,
    }  # fmt: skip


def test_a_run_makes_one_version_however_often_it_asks(database: Database, tmp_path: Path) -> None:
    models = ModelService(database, BlobStore(tmp_path / "blobs"))
    first = models.create_version("digits", "projects/digits/runs/1", "d", "s", {"pi": "x"}, {"pi": 0.9})
    again = models.create_version("digits", "projects/digits/runs/1", "d", "s", {"pi": "y"}, {"pi": 0.1})
    other = models.create_version("digits", "projects/digits/runs/2", "d", "s", {"pi": "z"}, {"pi": 0.8})
    assert again == first and first.name == "models/digits/versions/1"
    assert other.number == 2
    assert [version.number for version in models.versions("digits")[0]] == [2, 1]
    assert models.list()[0][0].latest_version == 2


def test_a_checkpoint_is_found_by_its_device_type(database: Database, tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    models = ModelService(database, blobs)
    kept = {name: blobs.put(name.encode()) for name in ("pi", "orin")}
    several = models.create_version("a", "projects/a/runs/1", "d", "s", {}, {}, Task.DETECTION, kept)
    one = models.create_version("b", "projects/b/runs/1", "d", "s", {}, {}, Task.DETECTION, {"pi": kept["pi"]})
    none = models.create_version("c", "projects/c/runs/1", "d", "s", {}, {})
    assert models.checkpoint(several.name, "orin").read_bytes() == b"orin"
    assert models.checkpoint(one.name).read_bytes() == b"pi"
    with pytest.raises(NotFound, match="orin, pi; say which one"):
        models.checkpoint(several.name)
    with pytest.raises(NotFound, match="only detectors"):
        models.checkpoint(none.name)


def test_a_missing_version_names_the_command(database: Database, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="milonga models versions"):
        ModelService(database, BlobStore(tmp_path / "blobs")).get_version("models/x/versions/9")


def test_recording_again_keeps_what_was_measured(builds: BuildService, tmp_path: Path) -> None:
    result = _result(tmp_path)
    (build,) = builds.record("models/d/versions/1", "pi", [result], 2.0)
    builds.set_measured(build.name, 3.0)
    (again,) = builds.record("models/d/versions/1", "pi", [result], 2.0)
    assert again.measured_ms == 3.0 and again.name == "models/d/versions/1/builds/pi:onnxruntime:fp32"


def test_one_build_is_chosen_for_each_device_type(builds: BuildService, tmp_path: Path) -> None:
    results = [_result(tmp_path, "fp32"), _result(tmp_path, "int8")]
    first, second = builds.record("models/d/versions/1", "pi", results, None)
    builds.choose(first.name)
    builds.choose(second.name)
    assert builds.chosen("models/d/versions/1") == {"pi": builds.get(second.name)}


def test_a_bundle_can_be_unpacked_whole(builds: BuildService, tmp_path: Path) -> None:
    (build,) = builds.record("models/d/versions/1", "pi", [_result(tmp_path)], None)
    folder = builds.unpack(build.bundle, tmp_path / "out")
    assert verify_bundle(folder).digest == build.bundle
    assert builds.manifest(build.bundle) == json.loads((folder / "manifest.json").read_text())
    found = builds.by_bundle(build.bundle)
    assert found is not None and found.name == build.name
