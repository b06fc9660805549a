"""Bundles for engines that each device builds for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from milonga.candidates import candidates, finished
from milonga_compiler.boxes import anchor_count
from milonga_compiler.build import State, build
from milonga_compiler.bundle import Bundle, verify_bundle
from milonga_compiler.decisions import MOST_PICTURES, agreement, chosen, decisions
from milonga_compiler.deferred import defer
from milonga_compiler.parity import Labelled
from milonga_compiler.target import Target
from numpy.typing import NDArray

from tests.compiler.engines_here import need
from tests.compiler.networks import Pictures
from tests.compiler.odd_networks import with_operator

MANIFEST = {"task": "classification", "project": "digits", "classes": [str(digit) for digit in range(10)]}
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


def test_int8_takes_along_what_the_network_decides_on_other_pictures_than_it_is_calibrated_on(
    network: tuple[Path, Labelled], fallback: Bundle, pictures: Pictures, tmp_path: Path
) -> None:
    onnx_path, evidence = network
    built = defer(onnx_path, TENSORRT, tmp_path / "b", evidence, pictures.normalised[:40], MANIFEST, [fallback])
    assert built.bundle is not None
    first, second = candidates(built.bundle.manifest)
    assert first.device_build is not None
    proof = first.device_build.proof
    assert proof is not None
    numbers = chosen(evidence.count)
    assert len(numbers) == MOST_PICTURES and (numbers[0], numbers[-1]) == (0, evidence.count - 1)
    travelling = np.load(built.bundle.folder / proof.input_file)
    assert np.abs(travelling - evidence.pictures[numbers]).max() < 2e-3
    told = json.loads((built.bundle.folder / proof.decisions_file).read_text(encoding="utf-8"))
    assert told == {"class": [str(number) for number in evidence.logits[numbers].argmax(axis=1)]}
    # Agents from before the proof read the narrow bound.
    assert first.probe.max_abs_error > 4 * built.bundle.manifest["probe"]["max_abs_error"]
    assert second.probe.max_abs_error < first.probe.max_abs_error


def test_a_handful_of_pictures_proves_nothing_and_the_narrow_bound_holds(
    network: tuple[Path, Labelled], fallback: Bundle, pictures: Pictures, tmp_path: Path
) -> None:
    whole = network[1]
    few = Labelled(whole.pictures[:8], whole.logits[:8], whole.labels[:8])
    built = defer(network[0], TENSORRT, tmp_path / "b", few, pictures.normalised[:40], MANIFEST, [fallback])
    assert built.bundle is not None
    first = candidates(built.bundle.manifest)[0]
    assert first.device_build is not None and first.device_build.proof is None
    assert first.probe.max_abs_error == built.bundle.manifest["probe"]["max_abs_error"]


def _detector() -> tuple[NDArray[np.float32], dict[str, Any]]:
    random, sides = np.random.default_rng(0), anchor_count(64)
    outputs = np.abs(random.normal(2, 1, (3, 4 + 2, sides))).astype(np.float32)
    outputs[:, 4:] = random.normal(-2, 2, (3, 2, sides))
    manifest: dict[str, Any] = {
        "task": "detection",
        "classes": ["bolt", "nut"],
        "input": {"size_px": 64},
        "output": {"strides": [8, 16, 32]},
        "postprocess": {"score_threshold": 0.6, "iou_threshold": 0.5, "max_boxes": 300},
    }
    return outputs, manifest


def test_a_network_agrees_with_itself_on_all_boxes_that_it_is_sure_of() -> None:
    outputs, manifest = _detector()
    decided = decisions(outputs, manifest)
    assert decided is not None and sum(score >= decided["sure"] for score in decided["scores"]) >= 20
    # Three times the odds of 0.6, and a third of them.
    assert decided["sure"] == pytest.approx(4.5 / 5.5) and min(decided["scores"]) == pytest.approx(1 / 3, abs=0.01)
    assert agreement(json.loads(json.dumps(decided)), outputs, manifest) == 1.0


def test_a_box_near_the_threshold_may_come_and_go_and_one_far_from_it_may_not() -> None:
    outputs, manifest = _detector()
    decided = decisions(outputs, manifest)
    assert decided is not None
    # By a half: of 0.6, 0.48 to 0.71.
    shifted = outputs.copy()
    shifted[:, 4:] += np.random.default_rng(1).choice([-0.5, 0.5], shifted[:, 4:].shape).astype(np.float32)
    assert agreement(decided, shifted, manifest) > 0.97
    blind = outputs.copy()
    blind[:, 5] = -8.0
    nuts = sum(
        score >= decided["sure"] and name == "nut"
        for score, name in zip(decided["scores"], decided["class"], strict=True)
    )
    count = sum(score >= decided["sure"] for score in decided["scores"])
    assert agreement(decided, blind, manifest) == pytest.approx((2 * (count - nuts)) / (2 * count - nuts), abs=0.02)
