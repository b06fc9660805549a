"""The contract of every back end: what it builds runs, is right, and says what it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Backend
from milonga_compiler.build import Evidence, State, build
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.errors import EngineMissing, UnknownTarget
from milonga_compiler.target import Target

from tests.compiler.networks import Pictures

MANIFEST = {"task": "classification", "project": "digits"}


@pytest.mark.parametrize("name", sorted(ENGINES))
class TestEveryBackEnd:
    @pytest.fixture
    def engine(self, name: str) -> Backend:
        return backend(name)

    @pytest.fixture
    def few(self, network: tuple[Path, Evidence]) -> Evidence:
        evidence = network[1]
        return Evidence(evidence.pictures[:40], evidence.logits[:40], evidence.labels[:40])

    def test_it_is_found_by_its_name_and_says_what_a_device_needs(self, name: str, engine: Backend) -> None:
        assert engine.name == name
        assert engine.requirement.startswith(">=") and engine.verification

    def test_its_files_lie_in_the_folder_and_run_there(
        self, name: str, engine: Backend, network: tuple[Path, Evidence], few: Evidence, tmp_path: Path
    ) -> None:
        (built,) = engine.build(network[0], Target(name, Precision.FP32), tmp_path, None)
        assert built.model_file in built.files
        assert all((tmp_path / file).is_file() for file in built.files)
        logits = engine.run(tmp_path / built.model_file, few.pictures, 1)
        assert logits.dtype == np.float32 and logits.shape == few.logits.shape
        assert np.abs(logits - few.logits).max() < 1e-3

    def test_one_picture_is_answered_as_it_is_in_a_batch(
        self, name: str, engine: Backend, network: tuple[Path, Evidence], few: Evidence
    ) -> None:
        alone = engine.run(network[0], few.pictures[:1], 1)
        assert np.abs(alone - few.logits[:1]).max() < 1e-3

    @pytest.mark.parametrize("precision", list(Precision))
    def test_its_bundle_passes_its_own_probe(
        self,
        name: str,
        precision: Precision,
        network: tuple[Path, Evidence],
        few: Evidence,
        pictures: Pictures,
        tmp_path: Path,
    ) -> None:
        if precision not in ENGINES[name].precisions:
            with pytest.raises(UnknownTarget, match=f"{name}/{precision}"):
                Target.parse(f"{name}/{precision}")
            return
        folder = tmp_path / "bundle"
        target = Target(name, precision)
        built = build(network[0], target, folder, few, pictures.normalised[:64], MANIFEST, 2.5)
        assert built.state is State.VERIFIED, built.reason
        manifest = verify_bundle(folder).manifest
        assert (manifest["engine"], manifest["precision"]) == (name, precision)
        probe = manifest["probe"]
        again = backend(name).run(folder / manifest["model_file"], np.load(folder / probe["input_file"]), 1)
        assert np.abs(again - np.load(folder / probe["expected_file"])).max() <= probe["max_abs_error"]
        assert list(tmp_path.iterdir()) == [folder]


def test_an_engine_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("MILONGA_ENGINES_FOLDER", str(tmp_path))
    with pytest.raises(EngineMissing, match=r"milonga-compiler\[onnxruntime\]"):
        backend("onnxruntime")


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(UnknownTarget, match="onnxruntime, reference"):
        backend("abacus")
