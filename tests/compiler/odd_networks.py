"""Small networks that something is wrong with, or that ask too much, written with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Size = int | str | None


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[Size] = ("batch", 3, 8, 8),
    tensors: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    domains: Sequence[str] = (),
) -> Path:
    """Write a network from 'image' to 'logits'."""
    graph = helper.make_graph(
        list(nodes),
        "odd",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None, None, None])],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def with_operator(path: Path, name: str, domain: str = "") -> Path:
    """Write a network of one operator and a Relu."""
    nodes = [helper.make_node("Relu", ["image"], ["x"]), helper.make_node(name, ["x"], ["logits"], domain=domain)]
    return write(path, nodes, domains=[domain] if domain else [])


def endless(path: Path) -> Path:
    """Write a network whose loop ends after 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"]), helper.make_node("Relu", ["before"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    tensors = [
        numpy_helper.from_array(np.array(2**62, dtype=np.int64), "rounds"),
        numpy_helper.from_array(np.array(True), "always"),
    ]
    return write(
        path, [helper.make_node("Loop", ["rounds", "always", "image"], ["logits"], body=body)], tensors=tensors
    )


def hungry(path: Path, factor: int = 4_000_000) -> Path:
    """Write a network that needs some 3 GB for each picture of 8 by 8."""
    times = numpy_helper.from_array(np.array([1, 1, 1, factor], dtype=np.int64), "times")
    nodes = [
        helper.make_node("Tile", ["image", "times"], ["huge"]),
        helper.make_node("ReduceMean", ["huge"], ["logits"], axes=[3], keepdims=1),
    ]
    return write(path, nodes, tensors=[times])
