"""Networks as other people export them: small, written with onnx.helper, and not as this project's own are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE_PX = 32
CLASSES = 3
ANCHORS = 4 * 4 + 2 * 2 + 1


class Graph:
    """Collects nodes and weights; `random` makes the weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(5)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        made = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [made], made, **attributes))
        return made

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        name = f"constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def conv(self, x: str, inside: int, outside: int, kernel: int) -> str:
        """Return a convolution whose cells do not overlap: it divides height and width by the kernel."""
        weights = self.random.normal(0, (2 / (inside * kernel**2)) ** 0.5, (outside, inside, kernel, kernel))
        bias = self.random.normal(0, 0.5, outside)
        return self.add("Conv", x, self.constant(weights), self.constant(bias), strides=[kernel, kernel])

    def write(
        self, path: Path, output: str, image: Sequence[Any] = (1, 3, SIZE_PX, SIZE_PX), rank: int = 2,
        kind: int = TensorProto.FLOAT, said: Mapping[str, str] = MappingProxyType({}),
    ) -> Path:  # fmt: skip
        """Write the network; `said` are what exporters write beside it."""
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info("pictures", kind, list(image))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, dict(said))
        onnx.save(model, str(path))
        return path


def classifier(path: Path, last: str = "Softmax", image: Sequence[Any] = (1, 3, SIZE_PX, SIZE_PX), **said: str) -> Path:
    """Write a classifier of three classes that ends in `last` ("" for logits), its batch written into a reshape."""
    g = Graph()
    x = g.add("Relu", g.conv("pictures", 3, 8, 8))
    flat = g.add("Reshape", g.add("GlobalAveragePool", x), g.constant([1, 8], np.int64))
    logits = g.add("Gemm", flat, g.constant(g.random.normal(0, 1, (8, CLASSES))))
    return g.write(path, g.add(last, logits) if last else logits, image, said=said)


def detector(
    path: Path, bins: int = 4, classes: int = CLASSES, end_to_end: bool = False, strides: Sequence[int] = (8, 16, 32)
) -> Path:
    """Write a detector that decodes its boxes as ultralytics' exports do: centres, sizes and scores, or end to end rows."""
    g = Graph()
    rows = [(g.conv("pictures", 3, 4 * bins, one), g.conv("pictures", 3, classes, one)) for one in strides]
    boxes, scores = (
        g.add("Concat", *(g.add("Reshape", row[place], g.constant([1, count, -1], np.int64)) for row in rows), axis=2)
        for place, count in ((0, 4 * bins), (1, classes))
    )
    sides = boxes
    if bins > 1:
        by_side = g.add("Reshape", boxes, g.constant([1, 4, bins, -1], np.int64))
        weighted = g.add("Mul", g.add("Softmax", by_side, axis=2), g.constant(np.arange(bins).reshape(1, 1, bins, 1)))
        sides = g.add("ReduceSum", weighted, g.constant([2], np.int64), keepdims=0)
    middles, widths = _anchors(strides)
    two = g.constant([2, 2], np.int64)
    low, high = f"low{len(g.nodes)}", f"high{len(g.nodes)}"
    g.nodes.append(helper.make_node("Split", [sides, two], [low, high], "sides", axis=1))
    first, second = g.add("Sub", g.constant(middles), low), g.add("Add", g.constant(middles), high)
    shares = g.add("Sigmoid", scores)
    if end_to_end:
        corners = g.add("Mul", g.add("Concat", first, second, axis=1), g.constant(widths))
        return g.write(path, _rows(g, corners, shares), rank=3)
    centre = g.add("Div", g.add("Add", first, second), g.constant(2.0))
    decoded = g.add("Mul", g.add("Concat", centre, g.add("Sub", second, first), axis=1), g.constant(widths))
    return g.write(path, g.add("Concat", decoded, shares, axis=1), rank=3)


def _rows(g: Graph, corners: str, shares: str) -> str:
    """Return rows of corners, score and class, the surest anchors first."""
    by_anchor = g.add("Transpose", shares, perm=[0, 2, 1])
    best = g.add("ReduceMax", by_anchor, axes=[2], keepdims=1)
    number = g.add("Cast", g.add("ArgMax", by_anchor, axis=2, keepdims=1), to=TensorProto.FLOAT)
    whole = g.add("Concat", g.add("Transpose", corners, perm=[0, 2, 1]), best, number, axis=2)
    values, places = f"values{len(g.nodes)}", f"places{len(g.nodes)}"
    flat = g.add("Reshape", best, g.constant([-1], np.int64))
    g.nodes.append(helper.make_node("TopK", [flat, g.constant([10], np.int64)], [values, places], "topk"))
    return g.add("Gather", whole, places, axis=1)


def _anchors(strides: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    middles, widths = [], []
    for stride in strides:
        along = np.arange(SIZE_PX // stride) + 0.5
        y, x = np.meshgrid(along, along, indexing="ij")
        middles.append(np.stack([x.ravel(), y.ravel()]))
        widths.append(np.full((1, x.size), float(stride)))
    return np.concatenate(middles, axis=1)[None], np.concatenate(widths, axis=1)[None]
