"""A detector in small, with what mobile networks are made of: depthwise convolutions, squeeze-and-excite, hard swish, SiLU,
a residual, upsampling and concatenation; output (n, 4 + classes, anchors)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE_PX, CLASSES, ANCHORS = 32, 3, 64
_WIDTH = 16


class _Graph:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(3)

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        made = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [made], made, **attributes))
        return made

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(self, x: str, inside: int, outside: int, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        spread = np.sqrt(2 / (inside // group * kernel**2))
        weights = self._random.normal(0, spread, (outside, inside // group, kernel, kernel)).astype(np.float32)
        bias = self._random.normal(0, 0.1, outside).astype(np.float32)
        return self.add(
            "Conv", x, self.constant(weights), self.constant(bias),
            strides=[stride] * 2, pads=[kernel // 2] * 4, group=group,
        )  # fmt: skip


def write_detector(path: Path) -> Path:
    """Write the network, with random weights and an open batch."""
    g = _Graph()
    stem = g.add("HardSwish", g.conv("image", 3, _WIDTH, 3, 2))
    deep = g.add("HardSwish", g.conv(stem, _WIDTH, _WIDTH, 5, 1, _WIDTH))
    gate = g.add("Relu", g.conv(g.add("GlobalAveragePool", deep), _WIDTH, 8))
    gate = g.add("HardSigmoid", g.conv(gate, 8, _WIDTH), alpha=1 / 6, beta=0.5)
    mixed = g.add("Add", g.conv(g.add("Mul", deep, gate), _WIDTH, _WIDTH), stem)
    x = g.conv(mixed, _WIDTH, _WIDTH, 3, 2)
    active = g.add("Mul", x, g.add("Sigmoid", x))
    small = g.conv(active, _WIDTH, _WIDTH, 3, 2)
    scales = g.constant(np.array([1, 1, 2, 2], dtype=np.float32))
    large = g.add(
        "Resize", small, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    head = g.conv(g.add("Concat", large, active, axis=1), 2 * _WIDTH, 4 + CLASSES)
    flat = g.add("Reshape", head, g.constant(np.array([0, 4 + CLASSES, -1], dtype=np.int64)))
    boxes, scores = (f"{name}{len(g.nodes)}" for name in ("boxes", "scores"))
    sizes = g.constant(np.array([4, CLASSES], dtype=np.int64))
    g.nodes.append(helper.make_node("Split", [flat, sizes], [boxes, scores], "split", axis=1))
    boxes = g.add("Mul", boxes, g.constant(np.array(8, dtype=np.float32)))
    g.nodes.append(helper.make_node("Concat", [boxes, g.add("Sigmoid", scores)], ["detections"], "out", axis=1))
    graph = helper.make_graph(
        g.nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["batch", 4 + CLASSES, ANCHORS])],
        g.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def write_branches(path: Path) -> Path:
    """Write a detector of pictures of 16 by 16 pixels whose last map, "neck", is read by a branch for boxes and one for classes."""
    g = _Graph()
    active = g.add("Relu", g.conv("image", 3, _WIDTH, 3, 2))
    large = [g.conv(active, _WIDTH, 4), g.conv(active, _WIDTH, CLASSES)]
    g.nodes.append(helper.make_node("Relu", [g.conv(active, _WIDTH, _WIDTH, 3, 2)], ["neck"], "neck"))
    small = [g.conv("neck", _WIDTH, 4), g.conv("neck", _WIDTH, CLASSES)]
    shape = g.constant(np.array([0, 4 + CLASSES, -1], dtype=np.int64))
    maps = [g.add("Reshape", g.add("Concat", *each, axis=1), shape) for each in (large, small)]
    g.nodes.append(helper.make_node("Concat", maps, ["detections"], "out", axis=2))
    graph = helper.make_graph(
        g.nodes,
        "branches",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["batch", 4 + CLASSES, 64 + 16])],
        g.tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
