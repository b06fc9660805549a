"""A second output of a classifier: what its last layer but one makes of a picture, in a few numbers.

Telemetry counts them beside answers: pictures that a network has never seen the like of differ there before its answers do. The features are
projected by a fixed matrix of random signs, which keeps the distances between pictures (Achlioptas 2003), so that the output is
small whatever the network and one matrix product is all that it costs.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUTPUT = "milonga_embedding"
DIMENSIONS = 16
_SEED = 16
# What lies between the last layer and the output without looking at other pictures or features.
_PASSED = ("Add", "Cast", "DequantizeLinear", "Identity", "QuantizeLinear")
_WEIGHTS_PASSED = ("Cast", "DequantizeLinear", "Identity")


class _Layer(NamedTuple):
    """Name, length and type of what the last layer is given for each picture."""

    features: str
    length: int
    half: bool


def embed(path: Path) -> bool:
    """Give the ONNX file the second output, float32 (n, DIMENSIONS); return False where it has no last layer that could be told.

    The nodes that make the first output stay as they were. A file that cannot be read is left to the engine to refuse.
    """
    model = onnx.load(str(path))
    layer = _last_layer(model.graph)
    if layer is None or any(OUTPUT in node.output for node in model.graph.node):
        return False
    random = np.random.default_rng(_SEED)
    # A byte each, which engines widen once when they load the file.
    signs = 2 * random.integers(0, 2, (layer.length, DIMENSIONS), dtype=np.int8) - 1
    projection = numpy_helper.from_array(signs.astype(np.int8), f"{OUTPUT}_signs")
    widened = f"{OUTPUT}_projection"
    features = layer.features
    if layer.half:
        features = f"{OUTPUT}_features"
        model.graph.node.append(helper.make_node("Cast", [layer.features], [features], to=TensorProto.FLOAT))
    model.graph.initializer.append(projection)
    model.graph.node.append(helper.make_node("Cast", [projection.name], [widened], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("MatMul", [features, widened], [OUTPUT], name=OUTPUT))
    described = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, DIMENSIONS])
    axes = model.graph.output[0].type.tensor_type.shape.dim
    if axes:
        described.type.tensor_type.shape.dim[0].CopyFrom(axes[0])
    model.graph.output.append(described)
    onnx.save_model(model, str(path))
    return True


def _last_layer(graph: onnx.GraphProto) -> _Layer | None:
    """Return the fully connected layer that makes the first output, None where that comes of anything else."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    name = graph.output[0].name
    while name in makers:
        node = makers[name]
        if node.op_type in ("Gemm", "MatMul"):
            return _described(node, makers, constants)
        if node.op_type not in _PASSED:
            return None
        given = [one for one in node.input if one in makers]
        if node.op_type == "Add" and len(given) != 1:
            return None
        name = given[0] if given else ""
    return None


def _described(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], constants: dict[str, TensorProto]
) -> _Layer | None:
    weights = node.input[1]
    while weights in makers and makers[weights].op_type in _WEIGHTS_PASSED:
        weights = makers[weights].input[0]
    flags = {attribute.name: attribute.i for attribute in node.attribute}
    if weights not in constants or len(constants[weights].dims) != 2 or flags.get("transA"):
        return None
    length = constants[weights].dims[1 if flags.get("transB") else 0]
    return _Layer(node.input[0], int(length), constants[weights].data_type == TensorProto.FLOAT16)
