"""Networks that were exported elsewhere become what this project builds, or are refused in words that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from milonga_compiler import isolated
from milonga_compiler.boxes import corners_of, scores_of
from milonga_compiler.errors import BuildFailed
from milonga_compiler.importing import Told, adopt
from milonga_compiler.network import read_network
from milonga_compiler.taking import take
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.compiler.foreign import ANCHORS, CLASSES, SIZE_PX, Graph, classifier, detector

NAMES = ("bolt", "nut", "screw")
TOLD = Told(NAMES, (0.5,) * 3, (0.25,) * 3)


def _run(path: Path, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: pictures})[0]
    return found


@pytest.fixture
def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(1).random((5, 3, SIZE_PX, SIZE_PX), dtype=np.float32)


@pytest.mark.parametrize("last", ["Softmax", "", "LogSoftmax"])
def test_a_classifier_comes_without_its_softmax_and_takes_any_number_of_pictures(
    tmp_path: Path, pictures: NDArray[np.float32], last: str
) -> None:
    sent = classifier(tmp_path / "sent.onnx", last)
    found = adopt(sent, tmp_path / "own.onnx", TOLD)
    assert (found.task, found.classes, found.size_px, found.resize) == ("classification", NAMES, SIZE_PX, "stretch")
    network = read_network(tmp_path / "own.onnx")
    assert (network.input_name, network.batch, network.outputs) == ("image", None, ("logits",))
    logits = _run(tmp_path / "own.onnx", pictures)
    wanted = np.concatenate([_run(sent, pictures[index : index + 1]) for index in range(5)])
    if last == "Softmax":
        logits = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(logits - wanted).max() < 1e-5


@pytest.mark.parametrize("bins", [1, 4])
def test_a_detector_comes_before_its_boxes_are_decoded(
    tmp_path: Path, pictures: NDArray[np.float32], bins: int
) -> None:
    sent = detector(tmp_path / "sent.onnx", bins)
    found = adopt(sent, tmp_path / "own.onnx", TOLD)
    assert (found.task, found.end_to_end, found.resize) == ("detection", False, "letterbox")
    maps = _run(tmp_path / "own.onnx", pictures)
    assert maps.shape == (5, 4 * bins + CLASSES, ANCHORS)
    for picture, one in zip(pictures, maps, strict=True):
        (wanted,) = _run(sent, picture[None])
        corners = corners_of(one[: 4 * bins], SIZE_PX)
        assert np.allclose((corners[:, :2] + corners[:, 2:]) / 2, wanted[:2].T, atol=1e-3)
        assert np.allclose(corners[:, 2:] - corners[:, :2], wanted[2:4].T, atol=1e-3)
        assert np.allclose(scores_of(one[4 * bins :]), wanted[4:], atol=1e-5)


def test_a_detector_that_tells_each_object_once_is_known_as_such(tmp_path: Path, pictures: NDArray[np.float32]) -> None:
    sent = detector(tmp_path / "sent.onnx", 1, end_to_end=True)
    assert adopt(sent, tmp_path / "own.onnx", TOLD).end_to_end
    assert _run(tmp_path / "own.onnx", pictures).shape == (5, 4 + CLASSES, ANCHORS)


def test_what_was_handed_out_comes_back_as_it_is(tmp_path: Path, pictures: NDArray[np.float32]) -> None:
    adopt(detector(tmp_path / "sent.onnx"), tmp_path / "own.onnx", TOLD)
    adopt(tmp_path / "own.onnx", tmp_path / "again.onnx", TOLD)
    assert np.array_equal(_run(tmp_path / "own.onnx", pictures), _run(tmp_path / "again.onnx", pictures))


def test_two_exports_of_one_network_are_one_network(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        adopt(classifier(tmp_path / f"{day}.onnx", date=day), tmp_path / f"own-{day}.onnx", TOLD)
    assert (tmp_path / "own-monday.onnx").read_bytes() == (tmp_path / "own-tuesday.onnx").read_bytes()


def test_exports_of_ultralytics_say_themselves_what_they_are(tmp_path: Path) -> None:
    said = {"author": "Ultralytics", "task": "classify", "names": "{0: 'bolt', 1: 'nut', 2: 'screw'}"}
    found = adopt(classifier(tmp_path / "sent.onnx", **said), tmp_path / "own.onnx")
    assert (found.classes, found.mean, found.std) == (NAMES, (0.0,) * 3, (1.0,) * 3)
    assert "stretch whole pictures" in found.notes[0]
    with pytest.raises(BuildFailed, match="for the task 'pose'; taken are 'detect' and 'classify'"):
        adopt(classifier(tmp_path / "pose.onnx", **{**said, "task": "pose"}), tmp_path / "own.onnx")


def test_open_sizes_are_fixed_where_they_are_told(tmp_path: Path) -> None:
    sent = classifier(tmp_path / "sent.onnx", image=("n", 3, "h", "w"))
    with pytest.raises(BuildFailed, match=r"open \(n, 3, h, w\); .* --size"):
        adopt(sent, tmp_path / "own.onnx", TOLD)
    found = adopt(classifier(tmp_path / "open.onnx", image=(1, 3, "h", "w")), tmp_path / "own.onnx", Told(NAMES, (0.0,) * 3, (1.0,) * 3, size_px=64))  # fmt: skip
    assert found.size_px == 64 and read_network(tmp_path / "own.onnx").shape == (3, 64, 64)


def _refusal(path: Path, told: Told = TOLD) -> str:
    with pytest.raises(BuildFailed) as caught:
        adopt(path, path.with_name("own.onnx"), told)
    return str(caught.value)


def test_what_is_no_network_is_told_apart(tmp_path: Path) -> None:
    whole = classifier(tmp_path / "whole.onnx").read_bytes()
    for name, content, words in (
        ("empty", b"", "is empty"),
        ("text", b"hello, world", "is not an ONNX file"),
        ("cut", whole[: len(whole) // 2], "perhaps cut off on the way"),
        ("torch", b"PK\x03\x04rest", "looks like a checkpoint of PyTorch; export it"),
    ):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        assert words in _refusal(path), name


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ((1, SIZE_PX, SIZE_PX, 3), "channels last (32, 32, 3); export it to take (batch, 3, height, width)"),
        ((1, 1, SIZE_PX, SIZE_PX), "1 channels; devices give it 3"),
        ((1, 3, SIZE_PX, 64), "64 by 32 pixels; devices give it squares"),
        ((1, 3, 8, 8), "8 pixels; 16 to 4096 are taken"),
        ((1, 3 * SIZE_PX), "pictures are (batch, 3, height, width)"),
    ],
)
def test_inputs_that_devices_cannot_make_are_named(tmp_path: Path, image: tuple[int, ...], words: str) -> None:
    assert words in _refusal(classifier(tmp_path / "sent.onnx", image=image))


def test_inputs_of_another_type_are_named(tmp_path: Path) -> None:
    g = Graph()
    path = g.write(tmp_path / "half.onnx", g.add("Relu", "pictures"), kind=TensorProto.FLOAT16)
    assert "takes float16; export it without half=True" in _refusal(path)


def test_outputs_that_are_no_choice_of_one_class_are_named(tmp_path: Path) -> None:
    assert "ends in a sigmoid" in _refusal(classifier(tmp_path / "sent.onnx", "Sigmoid"))


def test_probabilities_whose_softmax_cannot_be_taken_off_are_named(tmp_path: Path) -> None:
    model = onnx.load(str(classifier(tmp_path / "sent.onnx")))
    (shares,) = model.graph.output
    one = onnx.numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")
    model.graph.initializer.append(one)
    model.graph.node.append(helper.make_node("Mul", [shares.name, "one"], ["times_one"], "times_one"))
    shares.name = "times_one"
    onnx.save(model, str(tmp_path / "sent.onnx"))
    assert "makes probabilities, and does not end in a softmax" in _refusal(tmp_path / "sent.onnx")


def test_classes_and_scaling_must_be_known_and_fit(tmp_path: Path) -> None:
    path = classifier(tmp_path / "sent.onnx")
    assert "give the names of its classes" in _refusal(path, Told())
    assert "tells 3 classes apart, and 2 are named (a, b)" in _refusal(path, Told(("a", "b")))
    assert "'a' is named twice" in _refusal(path, Told(("a", "b", "a")))
    assert "--mean 0.485,0.456,0.406" in _refusal(path, Told(NAMES))
    assert "must be above 0" in _refusal(path, Told(NAMES, (0.0,) * 3, (1.0, 0.0, 1.0)))
    assert "tells 3 classes apart, and 2 are named" in _refusal(
        detector(tmp_path / "detector.onnx"), Told(("a", "b"), (0.0,) * 3, (1.0,) * 3)
    )


def test_other_detectors_are_refused_with_those_that_are_taken(tmp_path: Path) -> None:
    assert "a detector at 32 px has 21 anchors" in _refusal(detector(tmp_path / "p6.onnx", strides=(8, 16)))
    # Anchors in the same number whose cells are others decode to other boxes.
    model = onnx.load(str(detector(tmp_path / "other.onnx")))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.shape == (1, 1, ANCHORS):
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * 2, tensor.name))
    onnx.save(model, str(tmp_path / "other.onnx"))
    assert "nothing inside other.onnx decodes to the boxes" in _refusal(tmp_path / "other.onnx")


def test_several_outputs_are_refused(tmp_path: Path) -> None:
    model = onnx.load(str(classifier(tmp_path / "sent.onnx")))
    model.graph.output.append(helper.make_tensor_value_info("gemm4", TensorProto.FLOAT, [1, 3]))
    onnx.save(model, str(tmp_path / "sent.onnx"))
    assert "has 2 outputs" in _refusal(tmp_path / "sent.onnx")


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = onnx.load(str(classifier(tmp_path / "sent.onnx")))
    onnx.save(model, str(tmp_path / "apart.onnx"), save_as_external_data=True, size_threshold=0, location="weights")
    assert "lie in other files; export it into one" in _refusal(tmp_path / "apart.onnx")


def test_where_people_name_their_own_file_weights_beside_it_are_taken(
    tmp_path: Path, pictures: NDArray[np.float32]
) -> None:
    sent = classifier(tmp_path / "sent.onnx")
    apart, scratch = tmp_path / "apart", tmp_path / "scratch"
    for folder in (apart, scratch):
        folder.mkdir()
    onnx.save(onnx.load(str(sent)), str(apart / "network.onnx"), save_as_external_data=True, size_threshold=0, location="weights")  # fmt: skip
    taken = take(apart / "network.onnx", TOLD, scratch)
    adopt(sent, tmp_path / "own.onnx", TOLD)
    assert np.array_equal(_run(taken.path, pictures), _run(tmp_path / "own.onnx", pictures))
    (apart / "weights").unlink()
    with pytest.raises(BuildFailed, match="and weights is not beside it; copy it there too"):
        take(apart / "network.onnx", TOLD, tmp_path / "apart")


def test_weights_are_never_taken_from_elsewhere(tmp_path: Path) -> None:
    secret, apart, scratch = tmp_path / "secret", tmp_path / "apart", tmp_path / "scratch"
    for folder in (apart, scratch):
        folder.mkdir()
    model = onnx.load(str(classifier(tmp_path / "sent.onnx")))
    onnx.save(model, str(tmp_path / "other.onnx"), save_as_external_data=True, size_threshold=0, location="secret")
    assert secret.is_file()
    changed = onnx.load(str(tmp_path / "other.onnx"), load_external_data=False)
    for tensor in changed.graph.initializer:
        next(each for each in tensor.external_data if each.key == "location").value = "../secret"
    onnx.save(changed, str(apart / "network.onnx"))
    with pytest.raises(BuildFailed, match="cannot be put into one file"):
        take(apart / "network.onnx", TOLD, scratch)


@pytest.mark.parametrize("shape", [[1, 8], [1, -1]])
def test_shapes_that_are_to_be_taken_literally_are_opened_where_they_hold_no_zero(
    tmp_path: Path, pictures: NDArray[np.float32], shape: list[int]
) -> None:
    """As torch.onnx.export writes them by default."""
    g = Graph()
    pooled = g.add("GlobalAveragePool", g.conv("pictures", 3, 8, 8))
    flat = g.add("Reshape", pooled, g.constant(shape, np.int64), allowzero=1)
    sent = g.write(tmp_path / "sent.onnx", g.add("Gemm", flat, g.constant(g.random.normal(0, 1, (8, CLASSES)))))
    adopt(sent, tmp_path / "own.onnx", TOLD)
    wanted = np.concatenate([_run(sent, pictures[index : index + 1]) for index in range(5)])
    assert np.abs(_run(tmp_path / "own.onnx", pictures) - wanted).max() < 1e-5


def test_an_operator_that_nobody_knows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each engine is a process that is asked: one is enough here.
    monkeypatch.setattr(isolated, "usable", lambda name: name == "reference")
    g = Graph()
    g.nodes.append(helper.make_node("Mystery", ["pictures"], ["made"], "mystery", domain="com.example"))
    path = g.write(tmp_path / "sent.onnx", "made", rank=4)
    model = onnx.load(str(path))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, str(path))
    said = _refusal(path)
    assert "com.example.Mystery" in said and "no engine here does" in said


@pytest.mark.parametrize(("operator", "opset"), [("Tango", 17), ("HardSwish", 13)])
def test_an_operator_that_this_opset_lacks_is_named(
    operator: str, opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "usable", lambda name: False)
    model = onnx.load(str(classifier(tmp_path / "sent.onnx")))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = operator
    model.opset_import[0].version = opset
    onnx.save(model, str(tmp_path / "sent.onnx"))
    said = _refusal(tmp_path / "sent.onnx")
    assert f"uses the operator {operator}, which ONNX Runtime does not know" in said and "a newer opset" in said


def test_a_batch_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    g = Graph()
    pooled = g.add("Flatten", g.add("GlobalAveragePool", g.conv("pictures", 3, 8, 8)))
    # A class token is put before each picture's values, for one picture.
    with_token = g.add("Concat", g.constant(np.ones((1, 4))), pooled, axis=1)
    path = g.write(tmp_path / "sent.onnx", g.add("Gemm", with_token, g.constant(g.random.normal(0, 1, (12, 3)))))
    assert "exactly one picture at a time" in _refusal(path)
