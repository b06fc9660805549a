"""The build and compare jobs, as the hub runs them: in processes of their own that may be killed."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga.candidates import candidates
from milonga.embeddings import EMBEDDING
from milonga.pictures import BINS, INPUT_STATISTICS
from milonga_agent.served import Served
from milonga_compiler.bundle import verify_bundle
from milonga_hub.builds.rules import Allowed, BuildFigures, choose_build
from milonga_hub.jobs import KINDS, JobContext, JobCrashed, JobError, Progress, run_job
from PIL import Image

from tests.compiler.networks import MEAN, SIZE_PX, digits, write_network
from tests.ready_jobs import READY

TARGETS = ["onnxruntime/fp32", "onnxruntime/int8"]
ON_DEVICES = "tensorrt/fp16"


def _spec(folder: Path, newest: int = 1) -> dict[str, Any]:
    pictures = digits()
    logits = write_network(folder / "model.onnx", pictures)
    train, held_out = slice(0, pictures.train_count), slice(pictures.train_count, None)
    count = len(pictures.labels) - pictures.train_count
    np.savez(
        folder / "data.npz",
        x_train=pictures.images[train],
        y_train=pictures.labels[train],
        x_val=pictures.images[held_out],
        y_val=pictures.labels[held_out],
        added_train=np.ones(pictures.train_count, dtype=np.int32),
        added_val=np.where(np.arange(count) % 3 == 0, newest, 1).astype(np.int32),
        classes=np.array([str(digit) for digit in range(10)]),
    )
    np.save(folder / "expected.npy", logits[held_out])
    return {
        "onnx": str(folder / "model.onnx"),
        "expected": str(folder / "expected.npy"),
        "subnet_accuracy": float((logits[held_out].argmax(axis=1) == pictures.labels[held_out]).mean()),
        "data": str(folder / "data.npz"),
        "targets": TARGETS,
        "max_accuracy_loss_points": 2.0,
        "calibration_count": 64,
        "manifest": {
            "project": "digits",
            "model_version": "models/digits/versions/1",
            "subnet": "sha256:" + "0" * 64,
            "classes": [str(digit) for digit in range(10)],
            "task": "classification",
            "size_px": SIZE_PX,
            "expected_ms": 1.5,
        },
        "seed": 0,
        "threads": 1,
    }


def _run(kind: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    said: list[Progress] = []
    return asyncio.run(run_job(kind, spec, folder, said.append, READY))


def _run_here(kind: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the job's result as `_run` does, but from this process: for what does not depend on having one of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    job = importlib.import_module(KINDS[kind])
    result: dict[str, Any] = json.loads(json.dumps(job.run(spec, folder, JobContext(io.StringIO()))))
    return result


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("builds")
    spec = {**_spec(folder), "targets": [ON_DEVICES, *TARGETS]}
    return spec, _run("build", spec, folder / "job"), folder


def test_each_target_becomes_a_bundle_that_a_device_can_check(built: tuple[Any, dict[str, Any], Path]) -> None:
    _, result, _ = built
    assert [f"{one['engine']}/{one['precision']}" for one in result["builds"]] == [ON_DEVICES, *TARGETS]
    for one in result["builds"][1:]:
        assert one["state"] == "VERIFIED", one["reason"]
        bundle = verify_bundle(Path(one["directory"]))
        assert bundle.digest == one["bundle"]
        assert {file["path"] for file in one["files"]} == {file.path for file in bundle.files}
        assert bundle.manifest["input"]["mean"] == MEAN and bundle.manifest["expected_ms"] == 1.5


def test_what_devices_build_for_themselves_falls_back_to_the_builds_that_hold(
    built: tuple[Any, dict[str, Any], Path],
) -> None:
    _, result, _ = built
    one = result["builds"][0]
    assert one["state"] == "BUILT" and "each device builds it" in one["reason"] and one["accuracy"] is None
    manifest = verify_bundle(Path(one["directory"])).manifest
    assert [candidate.target for candidate in candidates(manifest)] == [ON_DEVICES, *TARGETS]
    assert sum(manifest["reference"]["class_counts"]) == 300


def test_the_manifest_says_what_healthy_telemetry_looks_like(built: tuple[Any, dict[str, Any], Path]) -> None:
    _, result, _ = built
    reference = verify_bundle(Path(result["builds"][1]["directory"])).manifest["reference"]
    for name in ("confidence", *INPUT_STATISTICS):
        assert len(reference[name]) == BINS[name][2]
        assert sum(reference[name]) == reference["sample_count"] == 300
    assert sum(reference["class_counts"]) == 300
    assert 0 < sum(reference["confidence_right"]) <= 300
    assert all(
        right <= seen for right, seen in zip(reference["confidence_right"], reference["confidence"], strict=True)
    )


def test_the_manifest_keeps_single_answers_to_look_at(built: tuple[Any, dict[str, Any], Path]) -> None:
    spec, result, _ = built
    manifest = verify_bundle(Path(result["builds"][1]["directory"])).manifest
    found = manifest["judged"]["examples"]
    with np.load(spec["data"]) as data:
        shown = data["y_val"]
        labels = [str(data["classes"][shown[each["row"]]]) for each in found]
    assert found and labels == [manifest["classes"][each["label"]] for each in found]
    wrong = [each["label"] != each["answer"] for each in found]
    assert wrong == sorted(wrong, reverse=True), "mistakes first"


def test_a_device_counts_embeddings_as_the_manifest_says_that_validation_pictures_do(
    built: tuple[Any, dict[str, Any], Path],
) -> None:
    _, result, _ = built
    pictures = digits()
    held_out = pictures.normalised[pictures.train_count :][1::2]
    for one in result["builds"][1:]:
        served = Served(Path(one["directory"]), threads=1)
        for picture in held_out:
            served.of_tensor(picture[None])
        seen = served.window.take()["inputs"][EMBEDDING]["counts"]
        expected = served.manifest["reference"][EMBEDDING]
        assert sum(seen) == sum(expected) == 150
        # Here and there a picture lies between two cells, and one at a time is added up in another order.
        assert sum(abs(left - right) for left, right in zip(seen, expected, strict=True)) <= 4


def test_a_device_that_sees_validation_pictures_of_any_size_tells_what_the_manifest_says_of_them(
    built: tuple[Any, dict[str, Any], Path],
) -> None:
    spec, result, _ = built
    with np.load(spec["data"]) as data:
        shown = [Image.fromarray(one.transpose(1, 2, 0)) for one in data["x_val"]]
    served = Served(Path(result["builds"][1]["directory"]), threads=1)
    expected = served.manifest["reference"]
    for times in (1, 4):
        served.of_pictures(
            [_png(one.resize((one.width * times, one.height * times), Image.Resampling.NEAREST)) for one in shown]
        )
        seen = {name: one["counts"] for name, one in served.window.take()["inputs"].items()}
        for name in INPUT_STATISTICS:
            # Pictures that come larger are a little smoother once they are small again.
            assert abs(_mean_bin(seen[name]) - _mean_bin(expected[name])) <= (times > 1) * 1.5, (name, times)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _mean_bin(counts: list[int]) -> float:
    return float(np.average(np.arange(len(counts)), weights=counts))


def test_a_killed_build_job_does_not_build_a_finished_target_again(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    folder = tmp_path / "job"

    async def kill_after_the_first() -> None:
        def watch(progress: Progress) -> None:
            if progress.message.endswith("int8"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await run_job("build", spec, folder, watch)

    asyncio.run(kill_after_the_first())
    first = folder / "onnxruntime-fp32.json"
    written = first.stat().st_mtime_ns
    assert not (folder / "result.json").exists()
    assert len(_run("build", spec, folder)["builds"]) == 2
    assert first.stat().st_mtime_ns == written


def test_a_missing_input_is_a_crash_with_a_log(tmp_path: Path) -> None:
    spec = {**_spec(tmp_path), "data": str(tmp_path / "nowhere.npz")}
    with pytest.raises(JobCrashed, match="log"):
        _run("build", spec, tmp_path / "job")
    assert "nowhere.npz" in (tmp_path / "job" / "log.txt").read_text()


def test_an_unknown_target_ends_the_job_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="magic/int4"):
        _run("build", {**_spec(tmp_path), "targets": ["magic/int4"]}, tmp_path / "job")


def test_a_version_is_not_better_than_itself(built: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    spec, result, folder = built
    # What a device builds is judged by what it falls back to: the same network.
    same = {one["engine"]: one["directory"] for one in result["builds"][:2]}
    said = _run(
        "compare",
        {"champion": same["onnxruntime"], "challenger": same["tensorrt"], "data": spec["data"]},
        folder / "compare",
    )
    assert not said["better"] and said["p_value"] == 1.0
    assert [group["name"] for group in said["groups"]] == ["old"]


def test_old_and_new_pictures_are_judged_apart(tmp_path: Path) -> None:
    spec = _spec(tmp_path, newest=2)
    bundle = _run_here("build", {**spec, "targets": TARGETS[:1]}, tmp_path / "job")["builds"][0]["directory"]
    said = _run_here("compare", {"champion": bundle, "challenger": bundle, "data": spec["data"]}, tmp_path / "compare")
    assert {group["name"]: group["count"] for group in said["groups"]} == {"old": 200, "new": 100}


def test_the_device_chooses_among_builds_that_hold() -> None:
    fp32 = BuildFigures("fp32", "onnxruntime", "fp32", 0.97, 2.0, 390, 400)
    int8 = BuildFigures("int8", "onnxruntime", "int8", 0.97, 3.0, 90, 100)
    assert choose_build([fp32, int8]) == fp32
    assert choose_build([BuildFigures("x", "x", "x", 1.0, None, 1, 1), int8], Allowed(latency_ms=3.0)) == int8
    assert choose_build([fp32, int8], Allowed(latency_ms=1.0)) is None


def test_results_are_plain_json(built: tuple[Any, dict[str, Any], Path]) -> None:
    _, result, folder = built
    assert json.loads((folder / "job" / "result.json").read_text()) == result
