"""int8 finds the layers that cannot bear it, and leaves only those in floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.build import State, build
from milonga_compiler.parity import Labelled
from milonga_compiler.quantize import quantize_variants
from milonga_compiler.target import Target
from onnx import TensorProto, helper, numpy_helper

from tests.compiler.engines_here import need

CHANNELS, SIZE_PX = 8, 8
MIDDLE = ("conv2", "conv3")


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers; one channel between the third and the fourth is 3,000 times as large as the others, and then undone."""
    random = np.random.default_rng(1)
    nodes, tensors, x = [], [], "image"
    for index in range(5):
        inside = 3 if index == 0 else CHANNELS
        weights = random.normal(0, (2 / inside) ** 0.5, (CHANNELS, inside, 1, 1)).astype(np.float32)
        if index == 2:
            weights[0] *= 3000
        if index == 3:
            weights[:, 0] /= 3000
        tensors.append(numpy_helper.from_array(weights, f"weights{index}"))
        nodes.append(helper.make_node("Conv", [x, f"weights{index}"], [f"x{index}"], f"conv{index}"))
        nodes.append(helper.make_node("Relu", [f"x{index}"], [f"y{index}"], f"relu{index}"))
        x = f"y{index}"
    nodes.append(helper.make_node("Flatten", [x], ["flat"], "flatten"))
    readout = random.normal(0, 0.1, (CHANNELS * SIZE_PX**2, 10)).astype(np.float32)
    tensors.append(numpy_helper.from_array(readout, "readout"))
    nodes.append(helper.make_node("MatMul", ["flat", "readout"], ["logits"], "matmul"))
    graph = helper.make_graph(
        nodes,
        "lopsided",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        tensors,
    )
    path = tmp_path_factory.mktemp("lopsided") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def scenes() -> Floats:
    return np.random.default_rng(0).normal(0, 1, (200, 3, SIZE_PX, SIZE_PX)).astype(np.float32)


def test_int8_holds_once_the_sensitive_layers_are_left_in_floats(
    lopsided: Path, scenes: Floats, tmp_path: Path
) -> None:
    logits = backend("onnxruntime").run(lopsided, scenes, 1)
    evidence = Labelled(scenes[32:], logits[32:], logits[32:].argmax(axis=1).astype(np.int64))
    manifest = {"task": "classification"}
    built = build(lopsided, Target.parse("onnxruntime/int8"), tmp_path / "b", evidence, scenes[:32], manifest, 6.0)
    assert built.state is State.VERIFIED and "sensitive" in built.reason, built.reason
    model = onnx.load(str(tmp_path / "b" / built.bundle.manifest["model_file"])) if built.bundle else None
    assert model is not None
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    assert {node.name for node in layers if "Dequantize" not in node.input[1]} == set(MIDDLE)


def test_weights_have_seven_bits_which_no_processor_overflows(lopsided: Path, scenes: Floats, tmp_path: Path) -> None:
    model = onnx.load(str(tmp_path / next(iter(quantize_variants(lopsided, tmp_path, scenes[:32]))).model_file))
    weights = [numpy_helper.to_array(one) for one in model.graph.initializer if one.data_type == TensorProto.INT8]
    found = [int(np.abs(one.astype(int)).max()) for one in weights if one.ndim > 1]
    assert len(found) == 6 and all(32 < most <= 64 for most in found)


def test_a_network_in_an_old_opset_is_quantised_by_channel_too(lopsided: Path, scenes: Floats, tmp_path: Path) -> None:
    model = onnx.load(str(lopsided))
    model.opset_import[0].version = 9
    old = tmp_path / "old.onnx"
    onnx.save(model, str(old))
    for variants, path in ((tmp_path / "old", old), (tmp_path / "new", lopsided)):
        variants.mkdir()
        made = variants / next(iter(quantize_variants(path, variants, scenes[:32]))).model_file
        np.save(variants / "found.npy", backend("onnxruntime").run(made, scenes[:20], 1))
    found = [np.load(tmp_path / name / "found.npy") for name in ("old", "new")]
    assert np.array_equal(*found)


def test_recipes_that_cannot_be_followed_are_left_out_and_the_others_tried(scenes: Floats, tmp_path: Path) -> None:
    """A layer that gives nearly one and the same number has no histogram: floats between its bins are missing."""
    random = np.random.default_rng(1)
    shapes = [(CHANNELS, 3, 1, 1), (CHANNELS, CHANNELS, 1, 1), (CHANNELS, CHANNELS, 1, 1)]
    weights = [random.normal(0, 0.3, shape).astype(np.float32) for shape in shapes]
    weights[1] *= np.float32(1e-6)
    nodes, tensors, x = [], [], "image"
    for index, one in enumerate(weights):
        biases = np.full(CHANNELS, 1.0 if index == 1 else 0.0, dtype=np.float32)
        tensors += [numpy_helper.from_array(one, f"w{index}"), numpy_helper.from_array(biases, f"b{index}")]
        nodes.append(helper.make_node("Conv", [x, f"w{index}", f"b{index}"], [f"x{index}"], f"conv{index}"))
        x = f"x{index}"
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", CHANNELS, SIZE_PX, SIZE_PX])],
        tensors,
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    made = [variant.model_file for variant in quantize_variants(path, tmp_path, scenes[:32])]
    assert "model-minmax.onnx" in made and "model-minmax-ends-fp32.onnx" in made
    assert "model-percentile.onnx" not in made


def test_openvino_gives_sensitive_layers_back_to_floats_too(lopsided: Path, scenes: Floats, tmp_path: Path) -> None:
    need("openvino")
    made = list(backend("openvino").build(lopsided, Target.parse("openvino/int8"), tmp_path, scenes[:32]))
    assert made[-1].model_file == "model-sensitive-fp32.xml"
    outputs = [backend("openvino").run(tmp_path / one.model_file, scenes[:32], 1) for one in (made[0], made[-1])]
    wanted = backend("onnxruntime").run(lopsided, scenes[:32], 1)
    plain, kept = (float(np.abs(one - wanted).mean()) for one in outputs)
    assert kept < plain / 2
