"""Change the graph of a network: end it earlier, rename its input, open its batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper


def ended(model: onnx.ModelProto, output: str, name: str) -> onnx.ModelProto:
    """Return the network with this value as its only output, called `name`, and nothing that it does not need."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph = whole.graph
    needed, nodes = _needed(graph, output)
    keep = [node for index, node in enumerate(graph.node) if index in nodes]
    del graph.node[:]
    graph.node.extend(keep)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    inputs = [value for value in graph.input if value.name not in {tensor.name for tensor in model.graph.initializer}]
    del graph.input[:]
    graph.input.extend(inputs)
    # What was known of shapes may not hold any more; engines infer them.
    del graph.value_info[:]
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name=output))
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    _rename(graph, output, name)
    return whole


def renamed(model: onnx.ModelProto, value: str, name: str) -> onnx.ModelProto:
    """Return the network with its input called by another name."""
    _rename(model.graph, value, name)
    for each in model.graph.input:
        if each.name == value:
            each.name = name
    return model


def _needed(graph: onnx.GraphProto, output: str) -> tuple[set[str], set[int]]:
    """Return the names of the values that an output comes from, and the places of the nodes that make them."""
    makers = {made: index for index, node in enumerate(graph.node) for made in node.output}
    waiting, names, nodes = [output], {output}, set()
    while waiting:
        index = makers.get(waiting.pop())
        if index is None or index in nodes:
            continue
        nodes.add(index)
        for name in _reads(graph.node[index]):
            if name not in names:
                names.add(name)
                waiting.append(name)
    return names, nodes


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, also inside of its branches and loops."""
    yield from node.input
    for inner in _branches(node):
        for each in inner.node:
            yield from _reads(each)
        yield from (value.name for value in inner.output)


def _branches(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _rename(graph: onnx.GraphProto, before: str, after: str) -> None:
    if before == after:
        return
    # A value inside that has the name already makes room.
    if any(after in (*node.input, *node.output) for node in graph.node):
        _rename(graph, after, f"{after}_inside")
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                if name == before:
                    values[index] = after
        for inner in _branches(node):
            _rename(inner, before, after)
    for value in (*graph.output, *graph.initializer):
        if value.name == before:
            value.name = after


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with an open batch; one that was made for a single picture may still not take several.

    Exporters that fix the batch write it into the shapes of reshapes: there 0 takes it from the input instead
    (ONNX operator Reshape). Whoever calls this proves that several pictures are answered as each by itself is.
    """
    graph = model.graph
    axes = graph.input[0].type.tensor_type.shape.dim
    fixed = axes[0].dim_value == 1
    axes[0].Clear()
    axes[0].dim_param = "batch"
    if fixed:
        _open_reshapes(graph)
    return model


def _open_reshapes(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.dims == [1] or len(tensor.dims) == 1}  # fmt: skip
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    added: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None or shape.ndim != 1 or len(shape) < 2 or shape[0] != 1:
            continue
        if literally := [each for each in node.attribute if each.name == "allowzero" and each.i]:
            # 0 means none there. torch.onnx.export says so of every shape, those without a 0 too.
            if 0 in shape:
                continue
            node.attribute.remove(literally[0])
        name = f"{node.input[1]}_open"
        added[name] = numpy_helper.from_array(np.array([0, *shape[1:]], dtype=np.int64), name)
        node.input[1] = name
    graph.initializer.extend(added.values())
