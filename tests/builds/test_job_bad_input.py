"""A network that cannot be built, or pictures that are missing, cost their own target: REJECTED, with the reason and a log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.builds.test_job import _run_here, _spec
from tests.compiler.networks import SIZE_PX
from tests.compiler.odd_networks import with_operator


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _open_sizes(path: Path) -> None:
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, str(path))


def _old_operators(path: Path) -> None:
    model = onnx.load(str(path))
    model.opset_import[0].version = 5
    onnx.save(model, str(path))


def _unknown_operator(path: Path) -> None:
    with_operator(path, "Tango", domain="ai.milonga")
    model = onnx.load(str(path))
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_value = SIZE_PX
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _spec(tmp_path_factory.mktemp("spec"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut_off, "not a whole ONNX file"),
        (_open_sizes, "only the batch may be: export it again"),
        (_old_operators, "opset 5"),
        (_unknown_operator, "ai.milonga.Tango; no engine here knows it whole"),
    ],
)
def test_a_bad_network_is_rejected_with_what_to_do(
    spoil: Callable[[Path], None], said: str, spec: dict[str, Any], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(Path(spec["onnx"]).read_bytes())
    spoil(bad)
    (rejected,) = _run_here("build", {**spec, "onnx": str(bad), "targets": ["onnxruntime/fp32"]}, tmp_path)["builds"]
    assert (rejected["state"], rejected["bundle"]) == ("REJECTED", "") and said in rejected["reason"]
    assert rejected["reason"] in Path(rejected["log"]).read_text()


def test_no_pictures_to_calibrate_on_cost_int8_and_nothing_else(spec: dict[str, Any], tmp_path: Path) -> None:
    plain, int8 = _run_here("build", {**spec, "calibration_count": 0}, tmp_path)["builds"]
    assert (plain["state"], int8["state"]) == ("VERIFIED", "REJECTED")
    assert "int8 needs pictures to calibrate on; give some" in int8["reason"]
