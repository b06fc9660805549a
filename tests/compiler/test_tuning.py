"""Which kernel is tuned next and when a tuning stops; what a folder of tuned kernels survives."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_compiler.backends import in_process
from milonga_compiler.engines import ENGINES
from milonga_compiler.errors import TuningRefused
from milonga_compiler.target import Target
from milonga_compiler.tune_command import main
from milonga_compiler.tuned_kernels import (
    RECORDS,
    WORKLOADS,
    check_target,
    held,
    keep_kernels,
    keep_target,
    mend,
    read_kernels,
)
from milonga_compiler.tuning import TRIALS_PER_TURN, Budget, Kernel, Step, Tuning, network_ms, next_kernel

X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}
LARGE, MIDDLE, SMALL = Kernel("a", "large", 1, 100.0), Kernel("b", "middle", 4, 10.0), Kernel("c", "small", 1, 0.5)


def test_the_kernel_that_takes_most_of_the_network_comes_first() -> None:
    assert next_kernel([SMALL, MIDDLE, LARGE]) is LARGE
    assert next_kernel([SMALL, LARGE.after_turn(20.0, 16), MIDDLE]) is MIDDLE, "four places of 10 ms"


def test_a_kernel_that_was_never_tuned_comes_before_one_that_was() -> None:
    tuned = LARGE.after_turn(60.0, 16)
    assert next_kernel([tuned, MIDDLE]) is MIDDLE
    # A second subnet finds the first one's kernels tuned, and begins with its own.
    assert next_kernel([tuned, MIDDLE.after_turn(5.0, 16), Kernel("d", "new", 1, 2.0)]) == Kernel("d", "new", 1, 2.0)


def test_turns_are_shared_out_by_the_time_that_is_left_in_a_kernel() -> None:
    kernels = {"a": replace(LARGE, turns=1), "b": replace(MIDDLE, turns=1)}
    turns = []
    for _ in range(5):
        chosen = next_kernel([*kernels.values()])
        assert chosen is not None
        turns.append(chosen.key)
        # Each turn gains a twentieth.
        kernels[chosen.key] = chosen.after_turn(chosen.ms * 0.95, 16)
    assert turns.count("a") > turns.count("b") > 0


def test_what_gains_nothing_twice_is_left_and_small_ones_wait_until_they_matter() -> None:
    idle = LARGE.after_turn(100.0, 16).after_turn(99.9, 16)
    assert idle.settled and next_kernel([idle, SMALL]) is None
    assert next_kernel([LARGE.after_turn(2.0, 16).after_turn(2.0, 16).after_turn(2.0, 16), SMALL]) is SMALL


def test_a_schedule_that_is_slower_than_none_is_not_counted() -> None:
    assert SMALL.after_turn(0.9, 16).ms == 0.5 and network_ms([SMALL.after_turn(0.9, 16), MIDDLE]) == 40.5


def test_a_turn_is_only_begun_where_it_fits() -> None:
    minute = Budget(seconds=60.0)
    assert minute.trials_that_fit(0.0, 0, None) == TRIALS_PER_TURN
    assert minute.trials_that_fit(50.0, 16, 2.0) == 5
    assert minute.trials_that_fit(56.0, 16, 2.0) == 0 and minute.trials_that_fit(61.0, 0, None) == 0
    assert Budget(trials=20).trials_that_fit(1e9, 16, 2.0) == 4 and Budget(trials=2).trials_that_fit(0.0, 0, None) == 2
    assert Budget(trials=20).trials_that_fit(0.0, 20, 2.0) == 0 and Budget().trials_that_fit(0.0, 0, None) == 0


@given(
    st.builds(Budget, st.one_of(st.none(), st.floats(0, 1e5)), st.one_of(st.none(), st.integers(0, 10_000))),
    st.floats(0.01, 100),
)
def test_no_tuning_spends_more_than_it_may(budget: Budget, each: float) -> None:
    seconds, trials = 0.0, 0
    for _ in range(2000):
        count = budget.trials_that_fit(seconds, trials, each)
        assert count <= TRIALS_PER_TURN
        if not count:
            break
        seconds, trials = seconds + count * each, trials + count
    assert budget.seconds is None or seconds <= budget.seconds * (1 + 1e-9) + 1e-6
    assert budget.trials is None or trials <= budget.trials


def test_a_step_says_what_was_gained_and_what_is_left() -> None:
    budget, before = Budget(seconds=600.0, trials=100), (LARGE, MIDDLE)
    begun = Step(before, found=0)
    assert begun.words(budget) == "0 of 2 kernels were found tuned; 140 ms in 2 kernels"
    turned = Step((LARGE.after_turn(4.0, 16), MIDDLE), 0, 30.0, 16, 1, LARGE)
    assert turned.words(budget) == (
        "large (1 in the network): 100 to 4 ms; 44 ms in 2 kernels, 1 not looked at yet; 0.5 of 10 minutes, 16 of 100 schedules"
    )
    ended = replace(turned, turn=None, ended="the budget is spent")
    assert "1 of them tuned; 16 schedules tried, 1 of them did not build or run" in ended.words(budget)
    assert Step.from_json(json.loads(json.dumps(turned.as_json()))) == turned


def test_lines_that_a_killed_process_left_half_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / WORKLOADS).write_text('["1","x"]\n["2","y"')
    (tmp_path / RECORDS).write_text('[0,["a"]]\n[1,["of a kernel that is lost"]]\n[0,["b"')
    mend(tmp_path)
    assert (tmp_path / WORKLOADS).read_text() == '["1","x"]\n' and (tmp_path / RECORDS).read_text() == '[0,["a"]]\n'
    # The last line was whole but for its end: what is written next must not join it.
    (tmp_path / RECORDS).write_text('[0,["a"]]\n[0,["b"]]')
    mend(tmp_path)
    assert (tmp_path / RECORDS).read_text() == '[0,["a"]]\n[0,["b"]]\n'


def test_a_folder_is_for_one_tuning_at_a_time_and_for_one_kind_of_processor(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    with held(folder), pytest.raises(TuningRefused, match="another tuning writes"), held(folder):
        pass
    with held(folder):
        check_target(folder, X86)
        keep_target(folder, X86)
        check_target(folder, X86)
    with pytest.raises(TuningRefused, match="x86_64-linux-gnu x86-64-v3, not aarch64-linux-gnu; name another folder"):
        check_target(folder, {"kind": "llvm", "mtriple": "aarch64-linux-gnu"})


def test_kernels_of_several_networks_are_kept_side_by_side(tmp_path: Path) -> None:
    keep_kernels(tmp_path, (LARGE.after_turn(4.0, 16),))
    keep_kernels(tmp_path, (MIDDLE,))
    assert read_kernels(tmp_path) == {
        "a": {"name": "large", "untuned_ms": 100.0, "trials": 16, "turns": 1, "idle_turns": 0},
        "b": {"name": "middle", "untuned_ms": 10.0, "trials": 0, "turns": 0, "idle_turns": 0},
    }


@pytest.mark.parametrize("engine", sorted(name for name, one in ENGINES.items() if not one.tuned))
def test_engines_that_bring_their_kernels_refuse(engine: str, tmp_path: Path) -> None:
    target = Target(engine, ENGINES[engine].precisions[0])
    with pytest.raises(TuningRefused, match="only tvm is tuned"):
        next(in_process(engine).tune(tmp_path / "model.onnx", target, Tuning(tmp_path, Budget(trials=1))))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "--minutes 10, or --trials 200"), (["--minutes", "0"], "more than 0"), (["--trials", "-1"], "more than 0")],
)
def test_the_command_wants_a_budget(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["model.onnx", "--database", "tuned", *arguments])
    assert said in capsys.readouterr().err


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask this interpreter, which has none of what tuning needs."""
    monkeypatch.setenv("MILONGA_ENGINE_TVM_PYTHON", sys.executable)


def test_for_another_processor_the_command_says_where_to_tune(
    here: None, network: tuple[Path, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--database", str(tmp_path / "tuned"), "--architecture", "riscv64", "--trials", "1"]
    assert main([str(network[0]), *where]) == 2
    assert "tuning for riscv64 needs a device of that kind; run milonga-compiler tune there" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()


@pytest.mark.skipif(importlib.util.find_spec("xgboost") is not None, reason="this interpreter has what tuning needs")
def test_an_environment_from_before_tuning_is_told_what_it_lacks(
    here: None, network: tuple[Path, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(network[0]), "--database", str(tmp_path / "tuned"), "--minutes", "1"]) == 2
    said = capsys.readouterr().err
    assert f"run: {sys.executable} -m pip install xgboost-cpu" in said


def test_a_file_that_is_no_network_is_refused(here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"torn")
    assert main([str(tmp_path / "model.onnx"), "--database", str(tmp_path / "tuned"), "--trials", "1"]) == 2
    assert "not a whole ONNX file" in capsys.readouterr().err
