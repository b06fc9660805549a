"""What goes into a pipeline of Kubeflow, and how its steps choose where no device can be asked."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.cli import main
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.exchange.kubeflow import artifacts, rules
from milonga_hub.exchange.kubeflow.artifacts import RunFile
from milonga_hub.projects.models import Limits, ProjectSpec, SearchSpec, SearchStrategy
from milonga_hub.runs.exports import RunExports
from milonga_hub.runs.models import Candidate, Trigger
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.profiled import Profiled

from tests.web.filled import Services, pictures

MEASURED = {
    "subnets": [{"subnet": "a", "precision": "fp32", "median_ms": 5.0}, {"subnet": "b", "precision": "fp32", "median_ms": None}],
    "candidates": [{"subnet": "c", "precision": "fp32", "median_ms": 2.0}],
    "builds": [{"subnet": "c", "target": "ncnn/fp32", "median_ms": 1.5}],
}  # fmt: skip


def _row(subnet: str, accuracy: float, high_ms: float) -> dict[str, Any]:
    return {
        "subnet": subnet, "precision": "fp32", "accuracy": accuracy, "predicted_high_ms": high_ms, "model_bytes": 9,
    }  # fmt: skip


def _build(engine: str, precision: str = "fp32", state: str = "VERIFIED") -> dict[str, Any]:
    files = [{"path": "model.onnx", "size_bytes": 70}, {"path": "manifest.json", "size_bytes": 30}]
    return {
        "engine": engine, "precision": precision, "state": state, "reason": "odd", "accuracy": 0.5, "size_bytes": 100, "files": files,
    }  # fmt: skip


def test_what_a_device_measured_decides_and_not_what_is_predicted() -> None:
    row, ms, was_measured = rules.chosen([_row("c", 0.8, 99.0), _row("a", 0.9, 0.1)], {"latency_ms": 3.0}, MEASURED)
    assert row is not None and (row["subnet"], ms, was_measured) == ("c", 2.0, True)


def test_what_no_device_measured_is_held_to_the_upper_end_of_its_prediction() -> None:
    rows = [_row("new", 0.9, 3.5), _row("b", 0.7, 2.5)]
    row, ms, was_measured = rules.chosen(rows, {"latency_ms": 3.0}, MEASURED)
    assert row is not None and (row["subnet"], ms, was_measured) == ("b", 2.5, False)
    assert rules.chosen(rows, {"latency_ms": 1.0}, MEASURED) == (None, None, False)


def test_a_build_counts_with_its_own_latency_or_with_that_of_its_subnet_in_the_same_precision() -> None:
    results = [_build("onnxruntime"), _build("ncnn"), _build("openvino", "int8"), _build("tvm", state="REJECTED")]
    figures = rules.build_figures(results, "c", "fp32", 2.0, MEASURED)
    assert [one.measured_ms for one in figures] == [2.0, 1.5, None, 2.0]
    assert figures[0].model_bytes == 70 and figures[3].objection == "it is rejected: odd"


def test_limits_of_a_submission_take_the_place_of_the_runs() -> None:
    plan = _plan()
    changed = rules.with_limits(plan, {"pi": {"latency_ms": 7.0, "model_bytes": 1000.0}})
    assert [item.limits for item in changed.types] == [Limits(latency_ms=7.0, model_bytes=1000), Limits(latency_ms=2.0)]
    with pytest.raises(ValueError, match="the device types pi, orin"):
        rules.with_limits(plan, {"nano": {}})


def test_results_hold_wherever_their_folder_lies(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    result = {"file": str(first / "a" / "b.onnx"), "rows": [{"n": 1, "other": "/elsewhere/x", "none": None}]}
    artifacts.write(first, "result.json", result)
    first.rename(second)
    assert artifacts.read(second, "result.json") == {**result, "file": str(second / "a" / "b.onnx")}


def test_a_file_that_is_no_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.zip").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"cannot be read as run\.zip"):
        _ = RunFile(tmp_path / "run.zip").plan
    zipfile.ZipFile(tmp_path / "run.zip", "w").close()
    with pytest.raises(InvalidInput, match=r"has no plan\.json"):
        _ = RunFile(tmp_path / "run.zip").plan


def test_without_the_sdk_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kfp", None)
    monkeypatch.delitem(sys.modules, "milonga_hub.exchange.kubeflow.pipeline", raising=False)
    assert main(["export", "kfp", "digits/1"]) == 1
    assert "pip install 'milonga-hub[kfp]'" in " ".join(capsys.readouterr().err.split())


def _plan(strategy: SearchStrategy = SearchStrategy.SEARCH) -> RunPlan:
    return RunPlan(
        spec=ProjectSpec(dataset="digits", search=SearchSpec(strategy=strategy)),
        dataset_version="datasets/digits/versions/1",
        classes=["0", "1"],
        types=[
            TypePlan(name="pi", limits=Limits(), targets=["onnxruntime/fp32"]),
            TypePlan(name="orin", limits=Limits(latency_ms=2.0), targets=["onnxruntime/fp32"]),
        ],
    )


@pytest.fixture
def hub(tmp_path: Path) -> Services:
    hub = Services(tmp_path)
    (tmp_path / "digits.zip").write_bytes(pictures(("0", "1")))
    hub.datasets.import_archive("digits", tmp_path / "digits.zip", append=False, strict=False)
    hub.projects.apply("digits", ProjectSpec(dataset="digits"))
    hub.runs.start("digits", Trigger.MANUAL, "")
    return hub


def _exports(hub: Services) -> RunExports:
    return RunExports(hub.runs, hub.datasets, hub.models, hub.builds, hub.blobs, hub.folder / "runs")


def test_a_run_goes_out_with_its_plan_and_what_devices_measured(hub: Services, tmp_path: Path) -> None:
    name, folder = "projects/digits/runs/1", hub.folder / "runs" / "digits" / "1"
    with pytest.raises(FailedPrecondition, match="milonga runs watch digits/1"):
        _exports(hub).export(name)
    _plan(SearchStrategy.BASELINE).write(folder)
    with pytest.raises(FailedPrecondition, match="is a baseline"):
        _exports(hub).export(name)
    _plan().write(folder)
    rows = [{"subnet": "a", "encoding": [1], "precision": "fp32", "median_ms": 4.0}]
    profiled = Profiled(measured={"pi": rows, "orin": []}, history=[], costs="")
    (folder / "profiled.json").write_text(profiled.model_dump_json())
    for key, ms in (("k", 1.25), ("l", None)):
        hub.runs.keep_candidates([Candidate(key=key, run=name, device_type="orin", subnet="b", measured_ms=ms)])
    (tmp_path / "run.zip").write_bytes(b"".join(_exports(hub).export(name)))
    sent = RunFile(tmp_path / "run.zip")
    assert sent.plan == _plan() and sent.about["dataset_digest"] == hub.datasets.latest("digits").digest
    assert sent.measurements["types"] == {
        "pi": {"subnets": rows, "candidates": [], "builds": []},
        "orin": {
            "subnets": [],
            "candidates": [{"subnet": "b", "precision": "fp32", "median_ms": 1.25}],
            "builds": [],
        },
    }
    assert "measures nothing itself" in json.dumps(sent.measurements["about"])
    assert sent.base(tmp_path) is None and sent.champion("pi", tmp_path) is None and sent.added == {}
