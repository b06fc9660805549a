"""A small network as exporters write them: modules in names, a residual, a constant that is stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MACS = 8 * 8 * 8 * 27 + 8 * 8 * 8 * 9 + 8 * 8 * 8 * 8 + 8 * 10
PARAMS = (8 * 27 + 8) + (8 * 9 + 8) + (8 * 8 + 8) + (8 * 10 + 10)


def cutting(path: Path) -> None:
    """Write a network that computes where to cut its input in halves by channel, as detectors do."""
    numbers = {"one": [1], "two": [2], "zero": [0]}
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"], "/cut/Shape"),
        helper.make_node("Gather", ["shape", "one"], ["channels"], "/cut/Gather"),
        helper.make_node("Div", ["channels", "two"], ["half"], "/cut/Div"),
        helper.make_node("Slice", ["image", "zero", "half", "one"], ["cut"], "/cut/Slice"),
        helper.make_node("Conv", ["cut", "weight"], ["made"], "/conv/Conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "cutting",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, ["batch", 5, 8, 8])],
        [
            numpy_helper.from_array(np.ones((5, 2, 1, 1), np.float32), "weight"),
            *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def network(path: Path) -> None:
    """Write it: a stem, a block of a depthwise and a pointwise convolution with its input added, and a classifier."""
    zeros = np.zeros(8, np.float32)
    tensors = {
        "stem.weight": np.ones((8, 3, 3, 3), np.float32),
        "depthwise.weight": np.ones((8, 1, 3, 3), np.float32),
        "project.weight": np.ones((8, 8, 1, 1), np.float32),
        "zeros": zeros,
        "weights": np.ones((10, 8), np.float32),
        "bias": np.zeros(10, np.float32),
    }
    half = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Identity", ["zeros"], ["zeros too"], "Identity_0"),
        helper.make_node(
            "Conv", ["image", "stem.weight", "zeros too"], ["a"], "/stem/conv/Conv", strides=[2, 2], **half
        ),
        helper.make_node("Relu", ["a"], ["b"], "/stem/act/Relu"),
        helper.make_node(
            "Conv", ["b", "depthwise.weight", "zeros"], ["c"], "/stage0_block0/depthwise/Conv", group=8, **half
        ),
        helper.make_node("Conv", ["c", "project.weight", "zeros"], ["d"], "/stage0_block0/project/Conv"),
        helper.make_node("Add", ["b", "d"], ["e"], "/stage0_block1/Add"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], "/classifier/pool/GlobalAveragePool"),
        helper.make_node("Flatten", ["f"], ["g"], "/classifier/Flatten"),
        helper.make_node("Gemm", ["g", "weights", "bias"], ["logits"], "/classifier/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
