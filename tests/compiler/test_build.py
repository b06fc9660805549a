"""Builds are proved right on real pictures, or refused with figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_compiler.__main__ import main
from milonga_compiler.backends.base import Floats
from milonga_compiler.build import Built, State, build
from milonga_compiler.bundle import checked_path, read_bundle, verify_bundle, write_bundle
from milonga_compiler.engines import Precision
from milonga_compiler.errors import BundleInvalid, CompilerError, UnknownTarget
from milonga_compiler.parity import Comparison, Labelled, Report
from milonga_compiler.target import Target, known_targets
from PIL import Image

from tests.compiler.networks import MEAN, STD, Pictures, digits, write_network

MANIFEST = {"task": "classification", "project": "digits", "classes": [str(digit) for digit in range(10)]}


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return digits()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> tuple[Path, Labelled]:
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    logits = write_network(path, pictures)
    held_out = slice(pictures.train_count, None)
    return path, Labelled(pictures.normalised[held_out], logits[held_out], pictures.labels[held_out])


def test_int8_is_smaller_and_still_right(network: tuple[Path, Labelled], pictures: Pictures, tmp_path: Path) -> None:
    path, evidence = network
    built = build(
        path, Target.parse("onnxruntime/int8"), tmp_path / "b", evidence, pictures.normalised[:64], MANIFEST, 1.0
    )
    assert built.bundle is not None and built.report is not None
    model = next(file for file in built.bundle.files if file.path.endswith(".onnx"))
    assert model.size_bytes < 0.5 * path.stat().st_size
    assert built.report.accuracy > 0.8
    assert built.report.agreement is not None and built.report.agreement > 0.9


@dataclass(frozen=True)
class Kept:
    """A build that lost too much and was kept, where it lies, and what its log tells."""

    built: Built
    folder: Path
    told: list[str]


@pytest.fixture(scope="module")
def dark(pictures: Pictures) -> Floats:
    """Return pictures a hundred times too faint: calibrated on them, every activation of a real one is cut off."""
    return pictures.normalised[:4] * np.float32(0.01)


@pytest.fixture(scope="module")
def kept(network: tuple[Path, Labelled], dark: Floats, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    told: list[str] = []
    folder = tmp_path_factory.mktemp("kept") / "b"
    built = build(
        network[0], Target.parse("onnxruntime/int8"), folder, network[1], dark, MANIFEST, 0.5,
        tell=told.append, keep_rejected=True,
    )  # fmt: skip
    return Kept(built, folder, told)


def test_what_is_decided_alike_is_told_on_the_same_pictures_as_devices_do_and_in_whatever_parts_they_come(
    network: tuple[Path, Labelled], dark: Floats, kept: Kept, tmp_path: Path
) -> None:
    class InParts(Labelled):
        def parts(self) -> list[Floats]:
            # Three, the last of which is shorter; a process begins for each.
            size = 2 * self.count // 5
            return [self.pictures[start : start + size] for start in range(0, self.count, size)]

    path, whole = network
    target, parts = Target.parse("onnxruntime/int8"), InParts(whole.pictures, whole.logits, whole.labels)
    report = build(path, target, tmp_path / "b", parts, dark, MANIFEST, 0.5).report
    assert report is not None and report == kept.built.report
    # Of 64 pictures.
    assert report.agreement is not None and 0 < report.agreement < 0.9
    assert report.agreement * 64 == round(report.agreement * 64)
    few = Labelled(whole.pictures[:8], whole.logits[:8], whole.labels[:8])
    told = build(path, target, tmp_path / "b", few, dark, MANIFEST, 100.0).report
    assert told is not None and told.agreement is None


def test_fp16_is_half_as_large_and_takes_and_gives_fp32(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    built = build(network[0], Target("onnxruntime", Precision.FP16), tmp_path / "half", network[1], None, MANIFEST, 0.5)
    assert built.state is State.VERIFIED and built.report is not None
    assert 0 < built.report.max_abs_error < 0.1
    model = onnx.load(str(tmp_path / "half" / "model.onnx"))
    kinds = {one.data_type for one in model.graph.initializer if np.prod(one.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}
    weights = sum(int(np.prod(one.dims)) for one in model.graph.initializer)
    assert sum(len(one.raw_data) for one in model.graph.initializer) <= 2 * weights + 64


def test_a_build_that_loses_too_much_is_refused_with_figures(
    network: tuple[Path, Labelled], dark: Floats, tmp_path: Path
) -> None:
    path, evidence = network
    built = build(path, Target.parse("onnxruntime/int8"), tmp_path / "b", evidence, dark, MANIFEST, 0.5)
    assert built.state == "REJECTED"
    assert "points of accuracy" in built.reason and "0.5 allowed" in built.reason
    assert not (tmp_path / "b").exists()


def test_a_build_that_lost_too_much_is_kept_for_those_who_ask_and_its_log_tells_each_try(kept: Kept) -> None:
    built, told = kept.built, kept.told
    assert built.state == "REJECTED" and built.bundle is not None and built.report is not None
    assert verify_bundle(kept.folder).digest == built.bundle.digest
    assert told[0] == "building onnxruntime/int8" and told[-1] == f"REJECTED: {built.reason}"
    assert sum(words.startswith("not this one: lost") for words in told) > 1
    log = (kept.folder.parent / "b.log").read_text()
    assert all(words in log for words in told)


def test_int8_without_pictures_says_what_it_needs(network: tuple[Path, Labelled], tmp_path: Path) -> None:
    path, evidence = network
    built = build(path, Target.parse("onnxruntime/int8"), tmp_path / "b", evidence, None, MANIFEST, 0.5)
    assert built.state == "REJECTED" and "calibrate" in built.reason


def test_fp32_that_differs_from_the_subnet_is_refused(network: tuple[Path, Labelled]) -> None:
    _, evidence = network
    comparison = Comparison(evidence.logits)
    comparison.add(evidence.logits[:7])
    comparison.add(evidence.logits[7:] + np.float32(0.5))
    report = Report(0.9, 0.9, comparison.max_abs_error, comparison.count)
    assert "differ by up to 0.5" in str(comparison.objection(report, Precision.FP32, 1.0, "accuracy"))
    assert comparison.objection(report, Precision.INT8, 1.0, "accuracy") is None


def test_outputs_that_are_not_numbers_are_refused(network: tuple[Path, Labelled]) -> None:
    _, evidence = network
    broken = evidence.logits.copy()
    broken[3, 2] = np.nan
    comparison = Comparison(evidence.logits)
    comparison.add(broken)
    report = Report(0.9, 0.9, comparison.max_abs_error, comparison.count)
    assert "1 of" in (told := str(comparison.objection(report, Precision.INT8, 100.0, "accuracy"))) and "finite" in told


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(UnknownTarget, match="onnxruntime/int8"):
        Target.parse("tensorflow/int4")


@given(st.text(max_size=30))
def test_parsing_a_target_gives_a_known_one_or_says_so(text: str) -> None:
    try:
        assert str(Target.parse(text)) in known_targets()
    except UnknownTarget:
        assert text.strip() not in known_targets()


def test_equal_inputs_give_an_equal_bundle(tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"weights")
    first = write_bundle(tmp_path / "a", MANIFEST, {"model.onnx": source})
    second = write_bundle(tmp_path / "b", dict(reversed(MANIFEST.items())), {"model.onnx": source})
    assert first.digest == second.digest
    assert {file.path for file in first.files} == {"manifest.json", "model.onnx"}


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"weights")
    write_bundle(tmp_path / "a", MANIFEST, {"model.onnx": source})
    (tmp_path / "a" / "model.onnx").write_bytes(b"Weights")
    with pytest.raises(BundleInvalid, match=r"model\.onnx is not the file"):
        verify_bundle(tmp_path / "a")


def test_a_manifest_that_points_outside_is_refused(tmp_path: Path) -> None:
    manifest = {"format": 1, "files": [{"path": "../secret", "digest": "sha256:0", "size_bytes": 1}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleInvalid, match="secret"):
        read_bundle(tmp_path)


@given(st.text(max_size=40))
def test_no_checked_path_leaves_its_folder(path: str) -> None:
    try:
        inside = Path("/bundle") / checked_path(path)
    except BundleInvalid:
        return
    assert inside.is_relative_to("/bundle") and ".." not in inside.parts and inside != Path("/bundle")


def test_a_person_can_build_where_they_are(
    network: tuple[Path, Labelled], pictures: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = network
    for index in range(200):
        folder = tmp_path / "pictures" / str(pictures.labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.images[index].transpose(1, 2, 0)).save(folder / f"{index}.png")
    scaling = [f"--{name}={','.join(map(str, values))}" for name, values in (("mean", MEAN), ("std", STD))]
    given_pictures = [
        "--calibration",
        str(tmp_path / "pictures"),
        "--output",
        str(tmp_path / "out"),
        "--json",
        *scaling,
    ]
    assert main([str(path), "--target", "onnxruntime/int8", "--max-lost-points", "3", *given_pictures]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bundle"] == verify_bundle(tmp_path / "out").digest
    assert said["subnet_accuracy"] > 0.8
    assert main([str(path), "--target", "magic/int8", *given_pictures]) == 2
    assert "magic/int8" in capsys.readouterr().err
    again = [
        "--calibration",
        str(tmp_path / "pictures"),
        "--output",
        str(tmp_path / "o2"),
        "--like",
        str(tmp_path / "out"),
    ]
    assert main([str(path), "--target", "onnxruntime/fp32", *again]) == 0
    assert main([str(path), "--target", "onnxruntime/fp32", *again[:4]]) == 2
    assert "--mean" in capsys.readouterr().err


def test_errors_of_the_package_are_one_family() -> None:
    assert issubclass(UnknownTarget, CompilerError) and issubclass(BundleInvalid, CompilerError)
