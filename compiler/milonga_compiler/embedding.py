"""A second output of a network: what its last layer but one makes of a picture, in a few numbers.

Of a classifier these are the features that its last layer is given; of a detector the means over the last and smallest map of its neck, from
which it tells boxes and classes of large objects.

Telemetry counts them beside answers: pictures that a network has never seen the like of differ there before its answers do. The features are
projected by a fixed matrix of random signs, which keeps the distances between pictures (Achlioptas 2003), so that the output is
small whatever the network and one matrix product is all that it costs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from milonga_compiler.network import Network, copy_whole

OUTPUT = "milonga_embedding"
DIMENSIONS = 16
_SEED = 16
# What lies between the last layer and the output without looking at other pictures or features.
_PASSED = ("Add", "Cast", "DequantizeLinear", "Identity", "QuantizeLinear")
_WEIGHTS_PASSED = ("Cast", "DequantizeLinear", "Identity")


Signs = NDArray[np.int8]


class _Layer(NamedTuple):
    """Name, length and type of what the last layer is given for each picture; of a map, its channels are the length."""

    features: str
    length: int
    half: bool
    is_map: bool = False


def embed(path: Path) -> bool:
    """Give the ONNX file the second output, float32 (n, DIMENSIONS); return False where it has no last layer that could be told.

    The nodes that make the first output stay as they were. A file that cannot be read is left to the engine to refuse.
    """
    model = onnx.load(str(path))
    layer = _last_layer(model.graph) or _last_map(model)
    if layer is None or any(OUTPUT in node.output for node in model.graph.node):
        return False
    # A byte each, which engines widen once when they load the file.
    projection = numpy_helper.from_array(signs(layer.length), f"{OUTPUT}_signs")
    widened = f"{OUTPUT}_projection"
    features = layer.features
    if layer.is_map:
        pooled, features = f"{OUTPUT}_pooled", f"{OUTPUT}_means"
        model.graph.node.append(helper.make_node("GlobalAveragePool", [layer.features], [pooled]))
        model.graph.node.append(helper.make_node("Flatten", [pooled], [features]))
    if layer.half:
        pooled = features
        features = f"{OUTPUT}_features"
        model.graph.node.append(helper.make_node("Cast", [pooled], [features], to=TensorProto.FLOAT))
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


def embedded(network: Network, scratch: Path) -> tuple[Network, bool]:
    """Return the network with the second output, in a file of its own, and whether it has one; for engines whose files take none later."""
    copied = scratch / "embedded.onnx"
    copy_whole(network, copied)
    embeds = embed(copied)
    return replace(network, path=copied), embeds


def signs(length: int) -> Signs:
    """Return the projection (length, DIMENSIONS), of -1 and 1: always the same for a length."""
    random = np.random.default_rng(_SEED)
    return np.asarray(2 * random.integers(0, 2, (length, DIMENSIONS), dtype=np.int8) - 1, dtype=np.int8)


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


def _last_map(model: onnx.ModelProto) -> _Layer | None:
    """Return the last map of a detector that more than one convolution is given: there branches begin, and necks end with the smallest.

    Sizes of maps are not asked for: what exporters write for upsampling leaves them open.
    """
    graph = model.graph
    if len(graph.output[0].type.tensor_type.shape.dim) != 3:
        return None
    readers = Counter(node.input[0] for node in graph.node if node.op_type == "Conv")
    try:
        inferred = shape_inference.infer_shapes(model).graph
    except shape_inference.InferenceError:
        return None
    described = {value.name: value.type.tensor_type for value in inferred.value_info}
    for name in (name for node in reversed(graph.node) for name in node.output if readers[name] > 1):
        if name not in described:
            continue
        axes, half = described[name].shape.dim, described[name].elem_type == TensorProto.FLOAT16
        if len(axes) == 4 and axes[1].dim_value:
            return _Layer(name, axes[1].dim_value, half, is_map=True)
    return None
