"""Training, profiling and searching as the hub runs them: jobs that may be killed at any time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from milonga.pictures import normalise, scaled
from milonga_hub.jobs import JobCrashed, JobError, Progress, run_job
from milonga_hub.learning.data import load
from milonga_hub.learning.latencies import Features, pool
from milonga_hub.learning.spaces import space
from milonga_hub.search.rules import choose, explain_impossible

from tests.learning.data import write_arrays
from tests.ready_jobs import READY

TRAIN = {
    "space": "resnet", "resolution_px": 16, "epochs": 5, "batch_size": 16, "learning_rate": 0.2, "seed": 0,
    "threads": 1, "base_checkpoint": None,
}  # fmt: skip


def _job(kind: str, spec: dict[str, Any], folder: Path, said: list[Progress] | None = None) -> dict[str, Any]:
    return asyncio.run(run_job(kind, spec, folder, (said if said is not None else []).append, READY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    write_arrays(folder / "data.npz")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Any]:
    """Return the result of a training job that was killed in its middle and started again."""
    spec = {**TRAIN, "data": str(folder / "data.npz")}

    async def kill_after_epoch_2() -> None:
        def watch(progress: Progress) -> None:
            if progress.metrics.get("epoch", 0) >= 2:
                for child in psutil.Process().children():
                    if "milonga_hub.jobs" in child.cmdline():
                        os.kill(child.pid, signal.SIGKILL)

        with pytest.raises(JobCrashed):
            await run_job("train", spec, folder / "train", watch)

    asyncio.run(kill_after_epoch_2())
    said: list[Progress] = []
    result = _job("train", spec, folder / "train", said)
    result["epochs_told"] = sorted({one.metrics["epoch"] for one in said if "epoch" in one.metrics})
    return result


@pytest.fixture(scope="module")
def profiled(folder: Path, trained: dict[str, Any]) -> list[dict[str, Any]]:
    spec = {
        "checkpoint": trained["checkpoint"], "count": 6, "seed": 0, "targets": ["onnxruntime/fp32", "onnxruntime/int8", "onnxruntime/fp16"], "elsewhere": [],
    }  # fmt: skip
    subnets: list[dict[str, Any]] = _job("profile", spec, folder / "profile")["subnets"]
    return subnets


def test_a_killed_training_goes_on_with_the_epoch_it_was_in(trained: dict[str, Any]) -> None:
    assert trained["epochs_told"][0] >= 2
    assert [point["epoch"] for point in trained["history"]] == [1, 2, 3, 4, 5]
    assert trained["accuracy_largest"] > 0.3


def test_a_finished_job_returns_its_result_at_once(folder: Path, trained: dict[str, Any]) -> None:
    said: list[Progress] = []
    again = _job("train", {**TRAIN, "data": str(folder / "data.npz")}, folder / "train", said)
    assert again["checkpoint"] == trained["checkpoint"] and not said


def test_an_unknown_space_is_said_plainly(folder: Path) -> None:
    with pytest.raises(JobError, match="mbv3"):
        _job("train", {**TRAIN, "space": "vgg", "data": str(folder / "data.npz")}, folder / "wrong")


def test_subnets_to_measure_reach_from_the_smallest_to_the_largest(profiled: list[dict[str, Any]]) -> None:
    macs = [one["macs"] for one in profiled if one["precision"] == "fp32"]
    assert macs == sorted(macs) and len(macs) == 6
    assert macs[-1] > 8 * macs[0]
    for one in profiled:
        [path] = one["files"].values()
        assert Path(path).stat().st_size < one["model_bytes"]


def test_some_subnets_are_measured_in_each_precision(profiled: list[dict[str, Any]]) -> None:
    plain, half, small = ([one for one in profiled if one["precision"] == name] for name in ("fp32", "fp16", "int8"))
    assert len(half) == len(small) == 5
    assert {one["subnet"] for one in small} == {one["subnet"] for one in half} < {one["subnet"] for one in plain}
    for one in small:
        types = {node.op_type for node in onnx.load(next(iter(one["files"].values()))).graph.node}
        assert "QuantizeLinear" in types
    for one in half:
        weights = onnx.load(one["files"]["model.onnx"]).graph.initializer
        assert onnx.TensorProto.FLOAT16 in {weight.data_type for weight in weights}


def test_what_was_counted_of_the_space_is_kept_for_later_jobs(folder: Path, profiled: list[dict[str, Any]]) -> None:
    resnet = space("resnet", 16)
    kept = Features.read(resnet, 10, folder / "profile" / "costs.json")
    some = pool(resnet, 0)[:20]
    np.testing.assert_array_equal(kept.costs(some), Features(resnet, 10).costs(some))
    assert len(json.loads((folder / "profile" / "costs.json").read_text())) > 300


def _memory(subnet: dict[str, Any]) -> float:
    """Return what a made-up engine takes for what is counted of a subnet."""
    return float(60e6 + 4 * subnet["memory_bytes"])


def _wanted(profiled: list[dict[str, Any]], name: str, speed: float, limits: dict[str, float]) -> dict[str, Any]:
    """Return a made-up device that is three times as fast in int8."""
    measurements = [
        {
            "subnet": one["subnet"],
            "encoding": one["encoding"],
            "precision": one["precision"],
            "median_ms": 0.01 + one["macs"] * (speed / 3 if one["precision"] == "int8" else speed),
            "peak_memory_bytes": round(_memory(one)),
        }
        for one in profiled
    ]
    return {"name": name, "limits": limits, "engine": "onnxruntime", "measurements": measurements}


def _search(folder: Path, trained: dict[str, Any], profiled: list[dict[str, Any]]) -> dict[str, Any]:
    """Search for three made-up devices, one of them impossible."""
    largest = next(one for one in reversed(profiled) if one["precision"] == "fp32")
    types = [
        _wanted(profiled, "fast", 1e-7, {"model_bytes": largest["model_bytes"]}),
        _wanted(profiled, "small", 1e-6, {"model_bytes": largest["model_bytes"] / 8, "memory_bytes": _memory(largest)}),
        _wanted(profiled, "none", 1e-6, {"memory_bytes": 59e6}),
    ]
    for one in types:
        others = [other for other in types if other is not one]
        one["elsewhere"] = [{"device_type": o["name"], "measurements": o["measurements"]} for o in others]
    spec = {
        "checkpoint": trained["checkpoint"], "data": str(folder / "data.npz"), "evaluated_subnets": 12,
        "population": 16, "generations": 6, "verified_candidates": 3, "seed": 0, "threads": 1, "types": types,
        "costs": str(folder / "profile" / "costs.json"),
    }  # fmt: skip
    return _job("search", spec, folder / "search")


@pytest.fixture(scope="module")
def searched(folder: Path, trained: dict[str, Any], profiled: list[dict[str, Any]]) -> dict[str, Any]:
    return _search(folder, trained, profiled)


def test_candidates_keep_the_limits_of_their_type(profiled: list[dict[str, Any]], searched: dict[str, Any]) -> None:
    small, fast = (searched["types"][name]["candidates"] for name in ("small", "fast"))
    limit = max(one["model_bytes"] for one in profiled if one["precision"] == "fp32") / 8
    assert 1 <= len(small) <= 3 and len(fast) == 3
    assert max(one["model_bytes"] for one in small) <= limit
    most = max(_memory(one) for one in profiled if one["precision"] == "fp32")
    assert 60e6 < max(one["memory_bytes"] for one in small) <= most, "as the device measured, not as counted"
    for one in (*small, *fast):
        assert one["fits"] and 0 <= one["accuracy"] <= 1
        assert one["predicted_low_ms"] <= one["predicted_ms"] <= one["predicted_high_ms"]


def test_candidates_come_with_a_file_that_gives_their_logits(
    folder: Path, trained: dict[str, Any], searched: dict[str, Any]
) -> None:
    candidate = searched["types"]["fast"]["candidates"][0]
    with np.load(folder / "data.npz") as arrays:
        labels = arrays["y_val"]
    logits = np.load(candidate["expected"])
    assert abs(float((logits.argmax(axis=1) == labels).mean()) - candidate["subnet_accuracy"]) < 1e-6
    assert candidate["checkpoint"] == "", "classifiers have no file of another tool"
    known = load(folder / "data.npz")
    with np.load(folder / "data.npz") as arrays:
        pictures = scaled(arrays["x_val"], candidate["resolution_px"])
    session = onnxruntime.InferenceSession(candidate["onnx"], providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"image": normalise(pictures, known.mean, known.std)})[0]
    assert np.abs(found - logits).max() < 1e-3


def test_a_precision_is_evaluated_as_its_engine_runs_it(
    folder: Path, trained: dict[str, Any], searched: dict[str, Any]
) -> None:
    candidates = [one for found in searched["types"].values() for one in found["candidates"]]
    # Which else are among them is the search's choice.
    assert "int8" in {one["precision"] for one in candidates}
    with np.load(folder / "data.npz") as arrays:
        images, labels = arrays["x_val"], arrays["y_val"]
    known = load(folder / "data.npz")
    for one in candidates:
        [path] = one["files"].values()
        pictures = normalise(scaled(images, one["resolution_px"]), known.mean, known.std)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run(["logits"], {"image": pictures})[0].argmax(axis=1)
        assert abs(float((answers == labels).mean()) - one["accuracy"]) < 1e-6


def test_precision_is_chosen_by_the_search(searched: dict[str, Any]) -> None:
    for name in ("small", "fast"):
        front = searched["types"][name]["front"]
        assert "int8" in {one["precision"] for one in front}
        assert all(one["drawing"].startswith("<svg") and one["choices"]["resolution"] for one in front)
    assert searched["types"]["small"]["latency_model"]["precisions"].keys() == {"fp32", "fp16", "int8"}


def test_evaluations_are_left_for_the_front(folder: Path, searched: dict[str, Any]) -> None:
    evaluated = json.loads((folder / "search" / "evaluated.json").read_text())
    plain = [tuple(one) for one, name, _ in evaluated if name == "fp32"]
    # Seven of the twelve are the random sample; what is learned may move the front on from the others.
    assert len(plain) > 7
    assert -1 <= searched["accuracy_predictor"]["kendall_tau"] <= 1


def test_a_type_that_nothing_fits_gets_the_fastest_named(searched: dict[str, Any]) -> None:
    found = searched["types"]["none"]
    assert found["candidates"] == [] and found["front"] == []
    said = explain_impossible("none", {"memory_bytes": 59e6}, found["fastest"], {})
    assert found["fastest"]["description"] in said and "raise the limits" in said
    assert found["fastest"]["memory_bytes"] > 60e6 and f"take {found['fastest']['memory_bytes']} of memory" in said


def test_a_line_is_learned_exactly(searched: dict[str, Any]) -> None:
    model = searched["types"]["fast"]["latency_model"]
    assert model["precisions"]["fp32"]["held_out_relative_error"] < 0.1 and model["precisions"]["fp32"]["count"] == 6


def test_a_search_that_is_started_again_evaluates_nothing_again(
    folder: Path, trained: dict[str, Any], profiled: list[dict[str, Any]], searched: dict[str, Any]
) -> None:
    (folder / "search" / "result.json").unlink()
    known = (folder / "search" / "evaluated.json").stat().st_mtime_ns
    assert json.loads(json.dumps(_search(folder, trained, profiled))) == searched
    assert (folder / "search" / "evaluated.json").stat().st_mtime_ns == known


def _candidate(subnet: str, accuracy: float, model_bytes: int = 10, precision: str = "fp32") -> dict[str, Any]:
    return {"subnet": subnet, "precision": precision, "accuracy": accuracy, "model_bytes": model_bytes}


def test_the_most_accurate_candidate_that_the_device_measured_within_limits_is_chosen() -> None:
    candidates = [
        _candidate("a", 0.99),
        _candidate("b", 0.98),
        _candidate("c", 0.97),
        _candidate("a", 0.975, 5, "int8"),
    ]
    a, b, c, small = [("a", "fp32"), ("b", "fp32"), ("c", "fp32"), ("a", "int8")]
    assert choose(candidates, {a: 9.0, b: 4.0, c: 1.0}, {"latency_ms": 5.0}) == candidates[1]
    assert choose(candidates, {c: 1.0}, {}) == candidates[2]
    assert choose(candidates, {a: 9.0}, {"latency_ms": 5.0}) is None
    assert choose(candidates, {a: 9.0, small: 4.0}, {"latency_ms": 5.0}) == candidates[3]
    assert choose(candidates, {a: 1.0}, {"model_bytes": 5}) is None
    assert choose(candidates, {b: 1.0, c: 1.0}, {"min_accuracy": 0.985}) is None
