"""Bundles for engines that each device builds for itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from milonga.candidates import candidates, finished
from milonga_compiler.build import State, build
from milonga_compiler.bundle import Bundle, verify_bundle
from milonga_compiler.deferred import defer
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target

from tests.compiler.engines_here import need
from tests.compiler.networks import Pictures
from tests.compiler.odd_networks import with_operator

MANIFEST = {"task": "classification", "project": "digits"}
TENSORRT = Target.parse("tensorrt/int8")


@pytest.fixture(scope="module")
def fallback(network: tuple[Path, Labelled], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("fallback") / "bundle"
    built = build(network[0], Target.parse("onnxruntime/fp32"), folder, network[1], None, MANIFEST, 0.5)
    assert built.bundle is not None
    return built.bundle


def test_it_holds_what_a_device_builds_of_and_falls_back_to_in_their_order(
    network: tuple[Path, Labelled], fallback: Bundle, pictures: Pictures, tmp_path: Path
) -> None:
    onnx_path, evidence = network
    calibration = pictures.normalised[:40]
    built = defer(onnx_path, TENSORRT, tmp_path / "b", evidence, calibration, MANIFEST, [fallback], max_seconds=60)
    assert built.state is State.BUILT and "onnxruntime/fp32" in built.reason and built.report is None
    bundle = verify_bundle(tmp_path / "b")
    assert onnx.load(str(bundle.folder / bundle.manifest["model_file"])).graph.node
    assert np.abs(np.load(bundle.folder / "calibration.npy") - calibration).max() < 2e-3
    first, second = candidates(bundle.manifest)
    assert (first.target, first.model_file) == ("tensorrt/int8", "")
    assert first.device_build is not None and first.device_build.max_seconds == 60
    assert finished(bundle.manifest) == second and second.target == "onnxruntime/fp32"
    assert (bundle.folder / second.model_file).read_bytes() == (fallback.folder / "model.onnx").read_bytes()
    assert np.array_equal(np.load(bundle.folder / first.probe.expected_file), evidence.expected[:4])


def test_equal_input_gives_equal_bytes(
    network: tuple[Path, Labelled], fallback: Bundle, pictures: Pictures, tmp_path: Path
) -> None:
    built = [
        defer(network[0], TENSORRT, tmp_path / name, network[1], pictures.normalised[:40], MANIFEST, [fallback])
        for name in ("one", "two")
    ]
    assert built[0].bundle is not None and built[1].bundle is not None
    assert built[0].bundle.digest == built[1].bundle.digest


def test_nothing_to_calibrate_on_or_to_fall_back_to_is_refused_with_what_to_add(
    network: tuple[Path, Labelled], fallback: Bundle, tmp_path: Path
) -> None:
    alone = defer(network[0], Target.parse("tensorrt/fp16"), tmp_path / "b", network[1], None, MANIFEST, [])
    assert alone.state is State.REJECTED and "add a target such as onnxruntime/fp32" in alone.reason
    blind = defer(network[0], TENSORRT, tmp_path / "b", network[1], None, MANIFEST, [fallback])
    assert blind.state is State.REJECTED and "pictures to calibrate on" in blind.reason
    assert not (tmp_path / "b").exists()


def test_an_engine_that_is_here_too_reads_the_network_before_any_device_does(
    network: tuple[Path, Labelled], fallback: Bundle, tmp_path: Path
) -> None:
    need("tensorrt")
    odd = with_operator(tmp_path / "odd.onnx", "Tango", "org.milonga")
    built = defer(odd, Target.parse("tensorrt/fp16"), tmp_path / "b", network[1], None, MANIFEST, [fallback])
    assert built.state is State.REJECTED and "org.milonga.Tango" in built.reason
