"""What a build does when the first way does not hold, or nothing can run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from milonga_compiler.backends.base import Floats, Variants
from milonga_compiler.backends.onnxruntime import OnnxRuntimeBackend
from milonga_compiler.build import State, build
from milonga_compiler.bundle import verify_bundle
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BuildFailed, CannotRunHere, PicturesUnusable
from milonga_compiler.parity import Comparison, Labelled
from milonga_compiler.target import Target

from tests.compiler.networks import Pictures

MANIFEST = {"task": "classification", "project": "digits"}
FP32, INT8 = Target("onnxruntime", Precision.FP32), Target("onnxruntime", Precision.INT8)


class ForeignHardware(OnnxRuntimeBackend):
    """The real engine on a machine that is not the one it builds for."""

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        raise CannotRunHere("it needs a Jetson")


class WrongNetwork(OnnxRuntimeBackend):
    """The real engine, given another network than it was asked to build: one that answers in five classes."""

    def run(self, model_file: Path, inputs: Floats, threads: int) -> Floats:
        return super().run(model_file, inputs, threads)[:, :5]


class NothingMade(OnnxRuntimeBackend):
    def build(self, onnx_path: Path, target: Target, folder: Path, calibration: Floats | None) -> Variants:
        yield from ()


def test_a_hot_pixel_in_calibration_is_forgiven_by_another_method(
    network: tuple[Path, Labelled], pictures: Pictures, tmp_path: Path
) -> None:
    path, evidence = network
    calibration = pictures.normalised[: pictures.train_count].copy()
    calibration[7, :, 8, 8] = 300.0
    built = build(path, INT8, tmp_path / "b", evidence, calibration, MANIFEST, 2.0)
    assert built.state is State.VERIFIED, built.reason
    assert "minmax" not in built.reason and built.reason.startswith("calibrated by ")


def test_equal_calibration_gives_an_equal_bundle(
    network: tuple[Path, Labelled], pictures: Pictures, tmp_path: Path
) -> None:
    path, evidence = network
    built = [build(path, INT8, tmp_path / name, evidence, pictures.normalised[:64], MANIFEST, 2.0) for name in "ab"]
    first, second = (one.bundle for one in built)
    assert first is not None and second is not None and first.digest == second.digest


def test_what_never_ran_is_built_and_not_verified(
    network: tuple[Path, Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, evidence = network
    monkeypatch.setattr("milonga_compiler.build.backend", lambda *_: ForeignHardware())
    built = build(path, FP32, tmp_path / "b", evidence, None, MANIFEST, 0.5)
    assert built.state is State.BUILT and built.report is None and "Jetson" in built.reason
    verify_bundle(tmp_path / "b")
    assert np.array_equal(np.load(tmp_path / "b" / "probe_expected.npy"), evidence.logits[:4])


@pytest.mark.parametrize(("engine", "said"), [(WrongNetwork, "shape"), (NothingMade, "made nothing")])
def test_a_useless_build_is_refused(
    engine: type[OnnxRuntimeBackend],
    said: str,
    network: tuple[Path, Labelled],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, evidence = network
    monkeypatch.setattr("milonga_compiler.build.backend", lambda *_: engine())
    built = build(path, FP32, tmp_path / "b", evidence, None, MANIFEST, 0.5)
    assert built.state is State.REJECTED and said in built.reason
    assert [path.name for path in tmp_path.iterdir()] == ["b.log"]
    assert said in (tmp_path / "b.log").read_text()


def test_a_file_that_is_no_network_is_refused(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    for target in (FP32, INT8):
        evidence = network[1]
        built = build(tmp_path / "broken.onnx", target, tmp_path / "b", evidence, evidence.pictures[:8], MANIFEST, 0.5)
        assert built.state is State.REJECTED and built.reason


def test_pictures_and_labels_that_do_not_belong_together_are_refused(network: tuple[Path, Labelled]) -> None:
    good = network[1]
    with pytest.raises(PicturesUnusable, match="one data set"):
        Labelled(good.pictures, good.logits[:-1], good.labels)
    with pytest.raises(PicturesUnusable, match="no validation pictures"):
        Labelled(good.pictures[:0], good.logits[:0], good.labels[:0])


def test_outputs_of_another_shape_are_no_match(network: tuple[Path, Labelled]) -> None:
    evidence = network[1]
    with pytest.raises(BuildFailed, match="shape"):
        Comparison(evidence.logits).add(evidence.logits[:, :5])
