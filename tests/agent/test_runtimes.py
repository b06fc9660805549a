"""The contract of every runtime: it loads what its back end built, computes the same, and says what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from milonga_agent.errors import BadBundle, EngineMissing
from milonga_agent.inventory import ENGINES, probe
from milonga_agent.limits import Limits
from milonga_agent.runtimes import load
from milonga_compiler import engines as compiled
from milonga_compiler.backends import backend
from milonga_compiler.engines import Precision
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target

from tests.compiler.detector import SIZE_PX, write_detector
from tests.compiler.engines_here import need, runs_here
from tests.compiler.networks import digits, write_network

# What a runtime imports, where that is not the engine's own name.
MODULES = {"reference": "onnx", "tvm": "tvm_ffi", "litert": "ai_edge_litert", "tensorrt": "cuda"}

# Prints the processor time, in seconds, that a process takes in the third of a second after a runtime's answers.
_USED_AFTER = """
import sys, time
from pathlib import Path
import numpy as np
from milonga_agent.runtimes import load
runtime = load(sys.argv[1], Path(sys.argv[2]), 2)
for _ in range(20):
    runtime.run(np.zeros((1, 3, int(sys.argv[3]), int(sys.argv[3])), dtype=np.float32))
before = time.process_time()
time.sleep(0.3)
print(time.process_time() - before)
"""


def test_agent_and_compiler_know_the_same_engines_and_precisions() -> None:
    assert {name: precisions for name, (_, precisions) in ENGINES.items()} == {
        name: tuple(map(str, engine.precisions)) for name, engine in compiled.ENGINES.items()
    }


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Labelled]:
    path, pictures = tmp_path_factory.mktemp("network") / "model.onnx", digits()
    logits = write_network(path, pictures)
    return path, Labelled(pictures.normalised[:40], logits[:40], pictures.labels[:40])


def _module(engine: str) -> str:
    return MODULES.get(engine, engine)


def _need_runtime(engine: str) -> None:
    need(engine)
    if not runs_here(engine):
        pytest.skip(f"{engine} runs on devices only")
    pytest.importorskip(_module(engine), reason=f"to test it, run: pip install 'milonga-agent[{engine}]'")


def _built(onnx: Path, engine: str, precision: Precision, folder: Path, evidence: Labelled) -> Path:
    folder.mkdir()
    calibration = evidence.pictures if precision is Precision.INT8 else None
    variants = backend(engine).build(onnx, Target(engine, precision), folder, calibration)
    model = folder / next(variants).model_file
    variants.close()
    return model


@pytest.mark.parametrize("engine", sorted(ENGINES))
class TestEveryRuntime:
    @pytest.mark.parametrize("precision", list(Precision))
    def test_it_computes_what_its_back_end_does(
        self, engine: str, precision: Precision, network: tuple[Path, Labelled], tmp_path: Path
    ) -> None:
        if precision not in compiled.ENGINES[engine].precisions:
            assert str(precision) not in ENGINES[engine][1]
            return
        _need_runtime(engine)
        model = _built(network[0], engine, precision, tmp_path / "built", network[1])
        before = backend(engine).run(model, network[1].pictures, 1)
        embeds = backend(engine).embed(model)
        assert embeds == compiled.ENGINES[engine].embeds
        expected, *more = backend(engine).outputs(model, network[1].pictures, 1)
        # An engine may keep halves as floats in other places than before.
        assert np.abs(before - expected).max() < 0.05
        runtime = load(engine, model, 1)
        assert runtime.input_shape == (3, 16, 16)
        found, embeddings = runtime.run_embedding(network[1].pictures)
        assert (embeddings is None) == (not embeds)
        assert embeddings is None or np.allclose(embeddings, more[0], atol=1e-2)
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4
        first = found.copy()
        runtime.run(network[1].pictures[::-1].copy())
        assert np.array_equal(first, found), "an answer must not change when the next picture is asked about"

    def test_a_detector_keeps_its_shape_with_more_threads(self, engine: str, tmp_path: Path) -> None:
        _need_runtime(engine)
        pictures = np.random.default_rng(0).normal(0, 1, (2, 3, SIZE_PX, SIZE_PX)).astype(np.float32)
        evidence = Labelled(pictures, np.zeros((2, 7), dtype=np.float32), np.zeros(2, dtype=np.int64))
        onnx = write_detector(tmp_path / "model.onnx")
        model = _built(onnx, engine, Precision.FP32, tmp_path / "built", evidence)
        expected = backend("reference").run(onnx, pictures, 1)
        found = load(engine, model, 2).run(pictures)
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-3

    def test_its_threads_leave_the_processor_once_it_has_answered(self, engine: str, tmp_path: Path) -> None:
        _need_runtime(engine)
        pictures = np.zeros((1, 3, SIZE_PX, SIZE_PX), dtype=np.float32)
        evidence = Labelled(pictures, np.zeros((1, 7), dtype=np.float32), np.zeros(1, dtype=np.int64))
        onnx = write_detector(tmp_path / "model.onnx")
        model = _built(onnx, engine, Precision.FP32, tmp_path / "built", evidence)
        asked = [sys.executable, "-c", _USED_AFTER, engine, str(model), str(SIZE_PX)]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
        assert float(done.stdout) < 0.02

    def test_it_is_timed_in_a_process_of_its_own(
        self, engine: str, network: tuple[Path, Labelled], tmp_path: Path
    ) -> None:
        _need_runtime(engine)
        model = _built(network[0], engine, Precision.FP32, tmp_path / "built", network[1])
        effort = {"warm_up_repeats": 1, "min_repeats": 5, "max_repeats": 20, "budget_seconds": 2.0}
        spec = {"model": str(model), "engine": engine, "threads": 1, "memory_bytes": 0, "rest_celsius": None}
        (tmp_path / "spec.json").write_text(json.dumps({**spec, "effort": effort}))
        done = subprocess.run(
            [sys.executable, "-m", "milonga_agent.profile", str(tmp_path / "spec.json")],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = json.loads(done.stdout.splitlines()[-1])
        assert said.get("error") is None and 0 < said["p50"] < 1000

    def test_a_broken_file_is_named(self, engine: str, tmp_path: Path) -> None:
        _need_runtime(engine)
        (tmp_path / "broken.model").write_bytes(b"not a model")
        with pytest.raises(BadBundle, match=r"broken\.model"):
            load(engine, tmp_path / "broken.model", 1)

    def test_without_its_package_it_names_the_extra(
        self, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == _module(engine).split(".")[0]]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, _module(engine), None)
        with pytest.raises(EngineMissing, match=rf"milonga-agent\[{engine}\]"):
            load(engine, tmp_path / "model", 1)

    def test_it_is_offered_to_the_hub_with_its_version_where_it_is_installed(self, engine: str) -> None:
        offered = {one.name: one for one in probe(Limits()).engines}
        precisions = ENGINES[engine][1]
        if engine in offered:
            assert list(offered[engine].precisions) == list(precisions) and offered[engine].version
        else:
            with pytest.raises(ImportError):
                import_module(_module(engine))


# Prints the processor time, in seconds, that a process takes after a kernel that is shared out among two threads.
_USED_AFTER_KERNEL = """
import sys, time
from milonga_agent.runtimes.tvm import aligned, load_runtime
runtime = load_runtime(2)
kernel = runtime.load_module(sys.argv[1])["main"]
given, made = (runtime.from_dlpack(aligned((64, 4096))) for _ in range(2))
for _ in range(20):
    kernel(given, made)
before = time.process_time()
time.sleep(1.0)
print(time.process_time() - before)
"""

_PARALLEL_KERNEL = """
import sys
import tvm
from tvm import te
from tvm.s_tir import Schedule
given = te.placeholder((64, 4096), name="given")
made = te.compute((64, 4096), lambda row, column: te.exp(te.sqrt(given[row, column])), name="made")
schedule = Schedule(tvm.IRModule({"main": te.create_prim_func([given, made]).with_attr("global_symbol", "main")}))
schedule.parallel(schedule.get_loops(schedule.get_sblock("made"))[0])
tvm.compile(schedule.mod, target="llvm").export_library(sys.argv[1])
"""


def test_threads_of_a_tuned_kernel_leave_the_processor_too(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="to test it, run: pip install 'milonga-agent[tvm]'")
    library = str(tmp_path / "kernel.so")
    subprocess.run([sys.executable, "-c", _PARALLEL_KERNEL, library], timeout=120, check=True)
    asked = [sys.executable, "-c", _USED_AFTER_KERNEL, library]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) < 0.02
