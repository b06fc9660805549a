"""The contract of every back end: what it builds runs, is right, and says what it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from milonga_compiler.backends import backend, in_process
from milonga_compiler.backends.base import Backend, Floats
from milonga_compiler.build import State, build
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.errors import CannotRunHere, EngineMissing, UnknownTarget, UnsupportedOperators
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target, known_targets

from tests.compiler.detector import ANCHORS, CLASSES, SIZE_PX, write_detector
from tests.compiler.engines_here import need, runs_here
from tests.compiler.networks import Pictures
from tests.compiler.odd_networks import with_operator

MANIFEST = {"task": "classification", "project": "digits"}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("detector") / "model.onnx")


@pytest.fixture(scope="module")
def scenes() -> Floats:
    return np.random.default_rng(0).normal(0, 1, (3, 3, SIZE_PX, SIZE_PX)).astype(np.float32)


@pytest.fixture(scope="module")
def few(network: tuple[Path, Labelled]) -> Labelled:
    evidence = network[1]
    return Labelled(evidence.pictures[:40], evidence.logits[:40], evidence.labels[:40])


@pytest.mark.parametrize("name", sorted(ENGINES))
class TestEveryBackEnd:
    @pytest.fixture
    def engine(self, name: str) -> Backend:
        need(name)
        return backend(name)

    def test_it_is_found_by_its_name_and_says_what_a_device_needs(self, name: str) -> None:
        engine = in_process(name)
        assert engine.name == name
        assert engine.requirement.startswith(">=") and engine.verification
        assert ENGINES[name].precisions and ENGINES[name].architectures

    def test_its_files_lie_in_the_folder_and_compute_what_the_network_does(
        self, name: str, engine: Backend, network: tuple[Path, Labelled], few: Labelled, tmp_path: Path
    ) -> None:
        with_variants = engine.build(network[0], Target(name, Precision.FP32), tmp_path, None)
        built = next(with_variants)
        with_variants.close()
        assert built.model_file in built.files
        assert all((tmp_path / file).is_file() for file in built.files)
        if not runs_here(name):
            with pytest.raises(CannotRunHere):
                engine.run(tmp_path / built.model_file, few.pictures, 2)
            return
        logits = engine.run(tmp_path / built.model_file, few.pictures, 2)
        assert logits.dtype == np.float32 and logits.shape == few.logits.shape
        assert np.abs(logits - few.logits).max() < 1e-3
        alone = engine.run(tmp_path / built.model_file, few.pictures[:1], 1)
        assert np.abs(alone - few.logits[:1]).max() < 1e-3

    def test_a_detector_keeps_its_boxes_and_scores(
        self, name: str, engine: Backend, detector: Path, scenes: Floats, tmp_path: Path
    ) -> None:
        built = next(engine.build(detector, Target(name, Precision.FP32), tmp_path, None))
        if not runs_here(name):
            assert (tmp_path / built.model_file).stat().st_size
            return
        found = engine.run(tmp_path / built.model_file, scenes, 1)
        expected = backend("reference").run(detector, scenes, 1)
        assert found.shape == expected.shape == (len(scenes), 4 + CLASSES, ANCHORS)
        assert np.abs(found - expected).max() < 1e-3

    @pytest.mark.parametrize("precision", list(Precision))
    def test_its_bundle_passes_its_own_probe(
        self,
        name: str,
        precision: Precision,
        network: tuple[Path, Labelled],
        few: Labelled,
        pictures: Pictures,
        tmp_path: Path,
    ) -> None:
        target = Target(name, precision)
        if precision not in ENGINES[name].precisions:
            with pytest.raises(UnknownTarget, match=str(target)):
                Target.parse(str(target))
            return
        need(name)
        folder = tmp_path / "bundle"
        built = build(network[0], target, folder, few, pictures.normalised[:64], MANIFEST, 2.5)
        assert built.state is (State.VERIFIED if runs_here(name) else State.BUILT), built.reason
        manifest = verify_bundle(folder).manifest
        assert (manifest["engine"], manifest["precision"]) == (name, precision)
        if not runs_here(name):
            return
        probe = manifest["probe"]
        again = backend(name).run(folder / manifest["model_file"], np.load(folder / probe["input_file"]), 1)
        assert np.abs(again - np.load(folder / probe["expected_file"])).max() <= probe["max_abs_error"]
        assert {path.name for path in tmp_path.iterdir()} <= {"bundle", "bundle.log"}

    def test_an_operator_that_nobody_has_is_named(self, name: str, engine: Backend, tmp_path: Path) -> None:
        model = with_operator(tmp_path / "odd.onnx", "Tango", "org.milonga")
        with pytest.raises(UnsupportedOperators, match=r"Tango.*no engine here knows it whole") as refused:
            next(engine.build(model, Target(name, ENGINES[name].precisions[0]), tmp_path, None))
        assert refused.value.operators == ("org.milonga.Tango",)

    def test_without_its_packages_it_names_the_line_that_adds_it(
        self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MILONGA_ENGINES_FOLDER", str(tmp_path))
        monkeypatch.delenv(f"MILONGA_ENGINE_{name.upper()}_PYTHON", raising=False)
        for module in ENGINES[name].modules:
            for either in module.split("|"):
                monkeypatch.setitem(sys.modules, either, None)
        with pytest.raises(EngineMissing, match=rf"milonga-compiler\[{name}\]|milonga-compiler engines add {name}"):
            backend(name)


def test_an_operator_that_one_engine_lacks_names_those_that_know_the_network(tmp_path: Path) -> None:
    model = with_operator(tmp_path / "gelu.onnx", "Gelu", "com.microsoft")
    with pytest.raises(UnsupportedOperators, match=r"com\.microsoft\.Gelu.*the whole network: .*onnxruntime"):
        next(backend("reference").build(model, Target.parse("reference/fp32"), tmp_path, None))


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(UnknownTarget, match="onnxruntime, openvino"):
        backend("abacus")


def test_every_target_has_a_name_that_is_read_back() -> None:
    assert [str(Target.parse(text)) for text in known_targets()] == known_targets()
