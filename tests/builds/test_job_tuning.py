"""What a build job tunes for: only where that gains something, and together as long as was asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from milonga_compiler.errors import TuningRefused
from milonga_compiler.target import Target
from milonga_compiler.timing import Times
from milonga_compiler.tuning import Budget, Kernel, Step
from milonga_hub.builds import tuned
from milonga_hub.builds.tuning_for_job import JobTuning, asking
from milonga_hub.jobs import JobContext

from tests.builds.test_job import _run_here, _spec
from tests.compiler.engines_here import need

TVM = Target.parse("tvm/fp32")
KERNELS = (Kernel("a", "conv", 2, 4.0, 1.0, 16, 1), Kernel("b", "dense", 1, 2.0))


def _asked(folder: Path, minutes: float) -> dict[str, Any]:
    return {"tuning_minutes": minutes, "tuning_database": str(folder / "tuned"), "threads": 2}


def test_a_job_that_is_begun_again_tunes_for_what_is_left_and_another_order_for_all(tmp_path: Path) -> None:
    asked, record = _asked(tmp_path, 10.0), tmp_path / "tvm-fp32.tuned.json"
    one = JobTuning(TVM, asked, record, "order")
    assert one.tuning is not None and one.tuning.budget == Budget(seconds=600.0)
    assert (one.tuning.database, one.tuning.threads) == (tmp_path / "tuned", 2)
    for seconds, trials in ((100.0, 16), (250.0, 32)):
        one.keep(Step((), 0, seconds, trials, 1))
    again = JobTuning(TVM, asked, record, "order")
    assert again.tuning is not None and again.tuning.budget == Budget(seconds=350.0)
    again.keep(Step((), 0, seconds=360.0, trials=16, failed=2))
    last = JobTuning(TVM, asked, record, "order")
    assert last.tuning is not None and last.tuning.budget == Budget(seconds=0.0) and last.spent_share == 1.0
    assert last.told is not None and (last.told["trials"], last.told["failed"]) == (48, 3)
    other = JobTuning(TVM, asked, record, "another")
    assert other.tuning is not None and other.tuning.budget == Budget(seconds=600.0)


def test_what_a_tuning_came_to_is_told_from_its_first_step_to_its_last(tmp_path: Path) -> None:
    asked = {**_asked(tmp_path, 1.0), "tuning_on": {"device": "", "threads": 3}}
    tuning = JobTuning(TVM, asked, tmp_path / "r", "order", lambda kernels: Times())
    assert tuning.tuning is not None and tuning.tuning.threads == 3 and tuning.tuning.timer is not None
    begun = tuple(Kernel(one.key, one.name, one.count, one.untuned_ms) for one in KERNELS)
    tuning.keep(Step(begun, 0, device="pi-1"))
    tuning.keep(Step(KERNELS, 0, 30.0, 16, 2, begun[0], device="pi-2"))
    tuning.keep(Step(KERNELS, 0, 30.0, 16, 2, ended="the budget is spent", device="pi-2"))
    assert tuning.told == {
        "site": "DEVICE",
        "minutes": 1.0,
        "wanted_device": "",
        "device": "pi-2",
        "seconds": 30.0,
        "trials": 16,
        "failed": 2,
        "kernels": 2,
        "found": 0,
        "tuned": 1,
        "untuned_ms": 10.0,
        "begun_ms": 10.0,
        "ms": 4.0,
        "ended": "the budget is spent",
    }


@pytest.mark.parametrize(("target", "minutes"), [("tvm/fp32", 0.0), ("onnxruntime/fp32", 10.0)])
def test_without_minutes_and_for_engines_with_kernels_of_their_own_nothing_is_tuned(
    target: str, minutes: float, tmp_path: Path
) -> None:
    one = JobTuning(Target.parse(target), _asked(tmp_path, minutes), tmp_path / "r", "order")
    assert one.tuning is None and one.told is None
    assert JobTuning(Target.parse(target), {"threads": 1}, tmp_path / "r", "order").tuning is None, "orders of before"


def test_what_devices_tuned_is_taken_by_later_builds_of_their_type_alone(tmp_path: Path) -> None:
    own = tuned.on_devices(tmp_path, "pi")
    own.mkdir(parents=True)
    asked = tuned.asked_of_job(tmp_path, "aarch64", "pi", 10.0)
    assert asked == {"tuning_minutes": 10.0, "tuning_database": str(tmp_path / "aarch64")}, "none was tuned yet"
    (own / "database_tuning_record.json").write_text("[]\n")
    asked = tuned.asked_of_job(tmp_path, "aarch64", "pi", 10.0)
    assert asked == {"tuning_minutes": 0.0, "tuning_database": str(own)}
    taken = JobTuning(TVM, {**asked, "threads": 1}, tmp_path / "r", "order")
    assert taken.tuning is not None and taken.tuning.budget == Budget() and taken.told is None
    assert tuned.asked_of_job(tmp_path, "", "orin", 10.0)["tuning_database"] == str(tmp_path / "hub")
    assert {tuned.root_of(own), tuned.root_of(tmp_path / "hub")} == {tmp_path}


def test_a_job_whose_runner_takes_no_questions_does_not_tune_on_devices(tmp_path: Path) -> None:
    with pytest.raises(TuningRefused, match="no way to ask the hub"):
        asking(JobContext(io.StringIO()))(tmp_path / "kernels.zip")


def test_a_build_for_tvm_is_tuned_into_the_projects_folder_and_its_log_tells(tmp_path: Path) -> None:
    need("tvm")
    spec = {**_spec(tmp_path), **_asked(tmp_path, 0.02), "targets": ["tvm/fp32"]}
    (made,) = _run_here("build", spec, tmp_path / "job")["builds"]
    assert made["state"] == "VERIFIED" and "kernels tuned" in made["reason"], made["reason"]
    assert "kernels were found tuned" in Path(made["log"]).read_text()
    assert made["tuning"]["seconds"] > 0 and made["tuning"]["site"] == "HUB"
    assert json.loads((tmp_path / "tuned" / "kernels.json").read_text())
