"""The minutes that a build job tunes for: only where that gains something, and together as many as were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from milonga_compiler.target import Target
from milonga_compiler.tuning import Budget, Step
from milonga_hub.builds import job

from tests.builds.test_job import _run_here, _spec
from tests.compiler.engines_here import need

TVM = Target.parse("tvm/fp32")


def _asked(folder: Path, minutes: float) -> dict[str, Any]:
    return {"tuning_minutes": minutes, "tuning_database": str(folder / "tuned"), "threads": 2}


def test_a_job_that_is_begun_again_tunes_for_what_is_left_and_another_order_for_all(tmp_path: Path) -> None:
    asked, record = _asked(tmp_path, 10.0), tmp_path / "tvm-fp32.tuned.json"
    tuning, keep = job._tuning(TVM, asked, record, "order")
    assert tuning is not None and tuning.budget == Budget(seconds=600.0)
    assert (tuning.database, tuning.threads) == (tmp_path / "tuned", 2)
    for seconds in (100.0, 250.0):
        keep(Step((), 0, seconds=seconds))
    again, keep = job._tuning(TVM, asked, record, "order")
    assert again is not None and again.budget == Budget(seconds=350.0)
    keep(Step((), 0, seconds=360.0))
    last, _ = job._tuning(TVM, asked, record, "order")
    assert last is not None and last.budget == Budget(seconds=0.0)
    other, _ = job._tuning(TVM, asked, record, "another")
    assert other is not None and other.budget == Budget(seconds=600.0)


@pytest.mark.parametrize(("target", "minutes"), [("tvm/fp32", 0.0), ("onnxruntime/fp32", 10.0)])
def test_without_minutes_and_for_engines_with_kernels_of_their_own_nothing_is_tuned(
    target: str, minutes: float, tmp_path: Path
) -> None:
    assert job._tuning(Target.parse(target), _asked(tmp_path, minutes), tmp_path / "r", "order")[0] is None
    assert job._tuning(Target.parse(target), {"threads": 1}, tmp_path / "r", "order")[0] is None, "orders of before"


def test_a_build_for_tvm_is_tuned_into_the_projects_folder_and_its_log_tells(tmp_path: Path) -> None:
    need("tvm")
    spec = {**_spec(tmp_path), **_asked(tmp_path, 0.02), "targets": ["tvm/fp32"]}
    (made,) = _run_here("build", spec, tmp_path / "job")["builds"]
    assert made["state"] == "VERIFIED" and "kernels tuned" in made["reason"], made["reason"]
    assert "kernels were found tuned" in Path(made["log"]).read_text()
    assert json.loads((tmp_path / "job" / "tvm-fp32.tuned.json").read_text())["seconds"] > 0
    assert json.loads((tmp_path / "tuned" / "kernels.json").read_text())
