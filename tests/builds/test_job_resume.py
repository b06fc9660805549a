"""A restarted build job repeats nothing that is done, and trusts nothing that has changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga import pictures
from milonga_compiler.bundle import verify_bundle
from milonga_hub.jobs import JobContext

from tests.builds.test_job import TARGETS, _run, _run_here, _spec
from tests.compiler.networks import MEAN, STD


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    return _spec(tmp_path)


def _record(folder: Path, target: str) -> Path:
    return folder / (target.replace("/", "-") + ".json")


def test_a_killed_job_goes_on_and_leaves_no_scratch(spec: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec, sort_keys=True, indent=1))
    process = subprocess.Popen(
        [sys.executable, "-m", "milonga_hub.jobs", "build", str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "building onnxruntime/int8" in line:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert _record(folder, TARGETS[0]).exists() and not (folder / "result.json").exists()
    written = _record(folder, TARGETS[0]).stat().st_mtime_ns
    (folder / ".bundle-left").mkdir()
    assert [one["state"] for one in _run("build", spec, folder)["builds"]] == ["VERIFIED", "VERIFIED"]
    assert _record(folder, TARGETS[0]).stat().st_mtime_ns == written
    assert not list(folder.glob(".bundle-*"))


def test_a_job_goes_on_in_another_folder_with_what_came_there(spec: dict[str, Any], tmp_path: Path) -> None:
    """As where one machine is lost and another takes its job over."""
    one = {**spec, "targets": TARGETS[:1]}
    first = _run_here("build", one, tmp_path / "job")["builds"][0]
    written = _record(tmp_path / "job", TARGETS[0]).stat().st_mtime_ns
    (tmp_path / "job").rename(tmp_path / "other")
    elsewhere = {**one, "onnx": shutil.copy(spec["onnx"], tmp_path / "other.onnx")}
    second = _run_here("build", elsewhere, tmp_path / "other")["builds"][0]
    assert second["bundle"] == first["bundle"] and Path(second["directory"]).parent == tmp_path / "other"
    assert Path(second["log"]).parent == tmp_path / "other"
    assert _record(tmp_path / "other", TARGETS[0]).stat().st_mtime_ns == written


def test_another_order_in_the_same_folder_is_built_anew(spec: dict[str, Any], tmp_path: Path) -> None:
    one = {**spec, "targets": TARGETS[:1]}
    first = _run("build", one, tmp_path / "job")["builds"][0]
    changed = {**one, "manifest": {**spec["manifest"], "model_version": "models/digits/versions/2"}}
    second = _run("build", changed, tmp_path / "job")["builds"][0]
    assert first["bundle"] != second["bundle"]
    assert verify_bundle(Path(second["directory"])).manifest["model_version"] == "models/digits/versions/2"


def test_a_finished_build_that_was_damaged_is_built_anew(spec: dict[str, Any], tmp_path: Path) -> None:
    one = {**spec, "targets": TARGETS[:1]}
    first = _run_here("build", one, tmp_path / "job")["builds"][0]
    (Path(first["directory"]) / "model.onnx").write_bytes(b"torn")
    second = _run_here("build", one, tmp_path / "job")["builds"][0]
    assert second["bundle"] == first["bundle"]
    verify_bundle(Path(second["directory"]))


def test_a_rejected_target_is_reported_beside_a_verified_one(spec: dict[str, Any], tmp_path: Path) -> None:
    # A negative allowance asks int8 to be better than the subnet by more than it can be.
    result = _run_here(
        "build", {**spec, "max_accuracy_loss_points": -50.0, "targets": TARGETS[1:]}, tmp_path / "strict"
    )
    (rejected,) = result["builds"]
    assert rejected["state"] == "REJECTED" and "points of accuracy" in rejected["reason"]
    parity, accuracy, differing = rejected["gates"]
    assert (parity["name"], parity["passed"]) == ("parity", True)
    assert (accuracy["name"], accuracy["passed"]) == ("accuracy", False)
    assert differing["name"] == "disagreement" and 0 <= differing["found"] < 10 and differing["passed"]
    # Kept, for a person who allows it all the same.
    assert verify_bundle(Path(rejected["directory"])).digest == rejected["bundle"]
    assert f"REJECTED: {rejected['reason']}" in Path(rejected["log"]).read_text()


def test_a_missing_engine_costs_its_own_target_until_it_is_there(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {**spec, "targets": ["reference/fp32", TARGETS[0]]}
    with monkeypatch.context() as without:
        without.setenv("MILONGA_ENGINE_REFERENCE_PYTHON", str(tmp_path / "nowhere"))
        missing, there = _run_here("build", both, tmp_path / "job")["builds"]
    assert (missing["state"], there["state"]) == ("REJECTED", "VERIFIED") and "nowhere" in missing["reason"]
    assert [one["state"] for one in _run_here("build", both, tmp_path / "job")["builds"]] == ["VERIFIED", "VERIFIED"]


def test_the_reference_is_counted_on_the_builds_own_outputs(spec: dict[str, Any], tmp_path: Path) -> None:
    from milonga_compiler.backends import backend

    for built in _run_here("build", spec, tmp_path / "job")["builds"]:
        bundle = verify_bundle(Path(built["directory"]))
        with np.load(spec["data"]) as arrays:
            inputs = pictures.normalise(arrays["x_val"], MEAN, STD)
        logits = backend("onnxruntime").run(bundle.folder / bundle.manifest["model_file"], inputs, 1)
        confidence = pictures.softmax(logits).max(axis=1).tolist()
        assert bundle.manifest["reference"]["confidence"] == pictures.histogram("confidence", confidence)
        expected = np.bincount(logits.argmax(axis=1), minlength=10).tolist()
        assert bundle.manifest["reference"]["class_counts"] == expected


def test_progress_never_goes_back(spec: dict[str, Any], tmp_path: Path) -> None:
    from milonga_hub.builds import job

    with (tmp_path / "said").open("w+") as out:
        (tmp_path / "job").mkdir()
        job.run(spec, tmp_path / "job", JobContext(out))
        out.seek(0)
        fractions = [json.loads(line)["fraction"] for line in out]
    assert fractions == sorted(fractions) and fractions[0] == 0.0 and fractions[-1] == 1.0
