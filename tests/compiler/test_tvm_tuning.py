"""Kernels are really tuned: what is found is kept, shared with other networks and built with; skipped where TVM is not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from milonga_compiler.backends import backend
from milonga_compiler.build import State, build
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from milonga_compiler.tuned_kernels import RECORDS
from milonga_compiler.tuning import Budget, Step, Tuning
from onnx import numpy_helper

from tests.compiler.engines_here import need

TVM = Target.parse("tvm/fp32")
MANIFEST = {"task": "classification"}


@pytest.fixture(scope="module")
def stopped(network: tuple[Path, Labelled], tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuning, list[Step]]:
    """Return a tuning that was ended after its first turn, as by a person, and its steps."""
    need("tvm")
    tuning = Tuning(tmp_path_factory.mktemp("tuning") / "tuned", Budget(trials=100))
    steps, going = [], backend("tvm").tune(network[0], TVM, tuning)
    for step in going:
        steps.append(step)
        if step.turn is not None:
            break
    going.close()  # type: ignore[attr-defined]
    return tuning, steps


def test_a_turn_tries_schedules_of_the_slowest_kernel_and_keeps_them(stopped: tuple[Tuning, list[Step]]) -> None:
    tuning, (begun, turned) = stopped
    assert begun.found == 0 and all(one.untuned_ms > 0 and one.best_ms is None for one in begun.kernels)
    assert turned.turn == max(begun.kernels, key=lambda one: one.network_ms)
    (tuned,) = [one for one in turned.kernels if one.tuned]
    assert tuned.key == turned.turn.key and tuned.trials == turned.trials > turned.failed
    assert len((tuning.database / RECORDS).read_text().splitlines()) == turned.trials


def test_the_next_tuning_goes_on_where_it_was_stopped_also_for_other_weights(
    stopped: tuple[Tuning, list[Step]], network: tuple[Path, Labelled], tmp_path: Path
) -> None:
    model = onnx.load(str(network[0]))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.5), tensor.name))
    onnx.save(model, str(tmp_path / "other.onnx"))
    with (stopped[0].database / RECORDS).open("a") as records:
        records.write('[0,["a line that a power cut left')
    step = next(backend("tvm").tune(tmp_path / "other.onnx", TVM, stopped[0]))
    assert step.found == 1 and step.kernels == stopped[1][-1].kernels


def test_a_build_takes_tuned_kernels_passes_its_gates_and_is_the_same_again(
    stopped: tuple[Tuning, list[Step]], network: tuple[Path, Labelled], tmp_path: Path
) -> None:
    given, used = Tuning(stopped[0].database), f"of {len(stopped[1][-1].kernels)} kernels tuned"
    first, again = (
        build(network[0], TVM, tmp_path / name, network[1], None, MANIFEST, 0.5, tuning=given) for name in "ab"
    )
    assert first.state is State.VERIFIED and used in first.reason, first.reason
    assert first.bundle and again.bundle and first.bundle.digest == again.bundle.digest


def test_where_it_cannot_be_tuned_it_is_built_all_the_same(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    need("tvm")
    (tmp_path / "tuned").write_text("no folder")
    tuning = Tuning(tmp_path / "tuned", Budget(trials=4))
    built = build(network[0], TVM, tmp_path / "b", network[1], None, MANIFEST, 0.5, tuning=tuning)
    assert built.state is State.VERIFIED and "0 of" in built.reason, built.reason
    assert "not tuned: " in (tmp_path / "b.log").read_text()
