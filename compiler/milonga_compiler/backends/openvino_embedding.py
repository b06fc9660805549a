"""The second output of embedding.py, for OpenVINO's own graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from milonga_compiler.embedding import OUTPUT, signs

# What lies between the last layer and the output without looking at other pictures or features.
_PASSED = ("Add", "Convert", "FakeQuantize", "Multiply")
_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def embed(model: Any) -> bool:
    """Give an openvino.Model the second output, float32 (n, DIMENSIONS); return False where it has no layer that could be told."""
    import openvino
    from openvino import opset13 as ops

    if len(model.outputs) != 1:
        return False
    features = _last_layer(model)
    if features is None:
        map_ = _last_map(model)
        features = None if map_ is None else ops.reduce_mean(map_, np.array([2, 3]), keep_dims=False).output(0)
    if features is None or not features.get_partial_shape()[-1].is_static:
        return False
    projection = signs(features.get_partial_shape()[-1].get_length()).astype(np.float32)
    if features.get_element_type() != openvino.Type.f32:
        features = ops.convert(features, "f32").output(0)
    product = ops.matmul(features, ops.constant(projection), False, False)
    product.output(0).set_names({OUTPUT})
    model.add_results([ops.result(product)])
    model.validate_nodes_and_infer_types()
    return True


def _last_layer(model: Any) -> Any:
    """Return what the fully connected layer is given that makes the output; None where that comes of anything else."""
    output = model.outputs[0].get_node().input_value(0)
    while True:
        node = output.get_node()
        if node.get_type_name() == "MatMul":
            fits = len(output.get_partial_shape()) == 2 and not node.get_attributes().get("transpose_a")
            return node.input_value(0) if fits else None
        if node.get_type_name() not in _PASSED:
            return None
        if node.get_type_name() in ("Add", "Multiply") and not _is_constant(node.input_value(1)):
            return None
        output = node.input_value(0)


def _is_constant(output: Any) -> bool:
    """Return whether it is a bias or a factor; those of half the bytes are widened first, and Gemm's multiplied by its beta."""
    node = output.get_node()
    if node.get_type_name() == "Constant":
        return True
    given = [node.input_value(place) for place in range(len(node.inputs()))]
    return bool(given) and all(_is_constant(each) for each in given)


def _last_map(model: Any) -> Any:
    """Return the last of a detector's smallest maps that more than one convolution is given: there its branches begin.

    Here sizes are known, and the order of nodes is not the exporter's.
    """
    if len(model.outputs[0].get_partial_shape()) != 3:
        return None
    found, smallest = None, 0
    for node in model.get_ordered_ops():
        for output in node.outputs():
            readers = [each.get_node().get_type_name() for each in output.get_target_inputs()]
            if sum(reader in _CONVOLUTIONS for reader in readers) < 2:
                continue
            shape = output.get_partial_shape()
            if len(shape) != 4 or not all(axis.is_static for axis in list(shape)[1:]):
                continue
            size = shape[2].get_length() * shape[3].get_length()
            if found is None or size <= smallest:
                found, smallest = output, size
    return found
