"""An engine that crashes, hangs or eats the memory costs its own build, with a reason, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from milonga_compiler import isolated
from milonga_compiler.backends import backend
from milonga_compiler.build import State, build
from milonga_compiler.errors import BuildFailed, EngineDied, EngineMissing
from milonga_compiler.isolated import IsolatedBackend, Limits
from milonga_compiler.network import read_network
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from onnx import helper, numpy_helper

from tests.compiler.engines_here import need
from tests.compiler.odd_networks import endless, hungry, write

MANIFEST = {"task": "classification", "project": "digits"}
FP32 = Target.parse("onnxruntime/fp32")
PICTURE = np.ones((1, 3, 8, 8), dtype=np.float32)

# What a broken engine does when it is imported: the way it dies, and how that is told.
DEATHS = {
    "import ctypes; ctypes.string_at(0)": "SIGSEGV",
    "import os; print('fatal: bad tensor', flush=True); os.abort()": "SIGABRT.*fatal: bad tensor",
    "import os; os._exit(7)": "exit code 7",
    "raise MemoryError": "out of memory",
}


def _break(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Put an onnxruntime in front of the real one that does as told in the engine's process."""
    folder.mkdir()
    (folder / "onnxruntime.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize("code", DEATHS)
def test_a_crash_is_the_reason_of_one_build_and_the_next_one_holds(
    code: str, network: tuple[Path, Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        _break(broken, tmp_path / "broken", code)
        died = build(network[0], FP32, tmp_path / "died", network[1], None, MANIFEST, 0.5)
    assert died.state is State.REJECTED
    with pytest.raises(EngineDied, match=DEATHS[code]):
        raise EngineDied(died.reason)
    holds = build(network[0], FP32, tmp_path / "holds", network[1], None, MANIFEST, 0.5)
    assert holds.state is State.VERIFIED, holds.reason


def test_what_the_engine_printed_is_kept_beside_the_build(
    network: tuple[Path, Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(
        monkeypatch,
        tmp_path / "broken",
        "import os; print('on stdout', flush=True); os.write(2, b'on stderr'); os.abort()",
    )
    build(network[0], FP32, tmp_path / "died", network[1], None, MANIFEST, 0.5)
    said = (tmp_path / "died.log").read_text()
    assert "on stdout" in said and "on stderr" in said


def _children() -> set[psutil.Process]:
    """Return the processes of this one, also those that have ended and were not waited for; other tests' may be among them."""
    return {*psutil.Process().children(recursive=True)}


def test_an_endless_loop_is_ended_with_all_its_children(tmp_path: Path) -> None:
    before = _children()
    engine = IsolatedBackend("onnxruntime", Limits(run_seconds=2.0))
    began = time.monotonic()
    with pytest.raises(EngineDied, match="ended after 2 s"):
        engine.run(endless(tmp_path / "endless.onnx"), PICTURE, 1)
    assert time.monotonic() - began < 20
    assert _children() <= before


def test_a_network_that_eats_the_memory_is_stopped_at_its_limit(tmp_path: Path) -> None:
    model = hungry(tmp_path / "hungry.onnx")
    with pytest.raises(EngineDied, match="1024 MiB"):
        IsolatedBackend("onnxruntime", Limits(memory_bytes=1 << 30)).run(model, PICTURE, 1)


def test_a_build_and_a_run_leave_no_process_behind(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    before = _children()
    variants = backend("onnxruntime").build(network[0], FP32, tmp_path, None)
    next(variants)
    assert _children() > before
    variants.close()
    assert _children() <= before


def test_an_engine_runs_under_the_interpreter_that_is_configured(
    network: tuple[Path, Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILONGA_ENGINE_ONNXRUNTIME_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(EngineMissing, match="nowhere"):
        backend("onnxruntime")
    (tmp_path / "python").write_text("#!/bin/sh\necho no such engine >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("MILONGA_ENGINE_ONNXRUNTIME_PYTHON", str(tmp_path / "python"))
    with pytest.raises(BuildFailed, match=r"exit code 3.*no such engine"):
        list(backend("onnxruntime").build(network[0], FP32, tmp_path, None))


def test_an_engine_that_lacks_another_operator_of_the_network_is_not_named_as_one_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ncnn has no layer for Where, and says nothing of the IsNaN that another engine was refused for."""
    need("ncnn")
    monkeypatch.setattr(isolated, "usable", lambda name: name in ("ncnn", "onnxruntime"))
    nodes = [
        helper.make_node("IsNaN", ["image"], ["odd"]),
        helper.make_node("Where", ["odd", "zero", "image"], ["logits"]),
    ]
    zero = numpy_helper.from_array(np.array(0, dtype=np.float32), "zero")
    network = read_network(write(tmp_path / "odd.onnx", nodes, tensors=[zero]))
    assert isolated.knowing(network, "litert") == ["onnxruntime"]
