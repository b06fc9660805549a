"""A network as its ONNX file tells of it: operations, what they hand to each other, and what each of them costs.

`graph_of` reads in a process of its own: shapes take libraries that the hub does not hold in memory for it.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]

# Of what is constant in a file, only what these hold are weights; the rest says how to reshape, resize or clip.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "PRelu")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
# They hand on what is constant: equal weights are stored once, and int8 ones with their scale.
_PASSING = ("Identity", "DequantizeLinear", "QuantizeLinear", "Cast")
# Networks of the larger spaces take 4 s on a busy core.
_READING_SECONDS = 120


@dataclass(frozen=True)
class Operation:
    """One operation of a network, for one picture.

    `reads` are the numbers of the operations before it; `path` are the modules that it stands in, the outermost first.
    `params` are weights, and `macs` multiply-adds as a convolution or product makes them.
    """

    number: int
    kind: str
    name: str
    path: tuple[str, ...]
    reads: tuple[int, ...]
    takes: tuple[Shape, ...]
    makes: Shape
    macs: int = 0
    params: int = 0
    about: str = ""


@dataclass(frozen=True)
class _Counted:
    """Operations, and what they cost together."""

    operations: tuple[Operation, ...]

    @property
    def macs(self) -> int:
        return sum(one.macs for one in self.operations)

    @property
    def params(self) -> int:
        return sum(one.params for one in self.operations)


@dataclass(frozen=True)
class Graph(_Counted):
    """A whole network, in an order in which it may run."""

    input_shape: Shape


@dataclass(frozen=True)
class Part(_Counted):
    """Operations that stand in one module, one after the other: a block, or a stage of blocks."""

    number: int
    name: str
    # Numbers of the parts before it that it reads from; -1 is the input.
    reads: tuple[int, ...] = ()

    @property
    def takes(self) -> Shape:
        return self.operations[0].takes[0] if self.operations[0].takes else ()

    @property
    def makes(self) -> Shape:
        """Return the shape of what it hands on; not of the figures by which detectors compute where to cut."""
        return next((one.makes for one in reversed(self.operations) if _is_tensor(one)), self.operations[-1].makes)


@dataclass(frozen=True)
class Stage:
    """Parts that belong together: "stage1_block0" and "stage1_block1" are of "stage1"."""

    name: str
    parts: tuple[Part, ...]

    @property
    def macs(self) -> int:
        return sum(one.macs for one in self.parts)

    @property
    def params(self) -> int:
        return sum(one.params for one in self.parts)


def stages(parts: Sequence[Part]) -> list[Stage]:
    """Return the parts in order, those of one stage together."""
    by_name = groupby(parts, key=lambda part: part.name.partition("_")[0])
    return [Stage(name, tuple(its)) for name, its in by_name]


def parts(graph: Graph) -> list[Part]:
    """Return the network's outermost modules in order; what stands in none belongs to the part before."""
    groups: list[tuple[str, list[Operation]]] = []
    for one in graph.operations:
        name = one.path[0] if one.path else groups[-1][0] if groups else "input"
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(one)
    hands_on = {-1, *(one.number for one in graph.operations if _is_tensor(one))}
    home = {one.number: index for index, (_, operations) in enumerate(groups) for one in operations}
    return [
        Part(
            tuple(operations),
            index,
            name,
            tuple(
                sorted(
                    {home.get(number, -1) for one in operations for number in one.reads if number in hands_on} - {index}
                )
            ),
        )
        for index, (name, operations) in enumerate(groups)
    ]


def _is_tensor(operation: Operation) -> bool:
    return len(operation.makes) > 1


@lru_cache(maxsize=32)
def graph_of(path: Path) -> Graph:
    """Return what an ONNX file holds, for one picture; files are named by their content, so each is read once.

    Raises ValueError where the file is no network.
    """
    command = [sys.executable, "-m", "milonga_hub.builds.graph", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_READING_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path.name} was not read within {_READING_SECONDS} s") from error
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2] or f"{path.name} cannot be read as ONNX")
    return TypeAdapter(Graph).validate_json(done.stdout)


def read_graph(path: Path) -> Graph:
    """Return what an ONNX file holds, for one picture. Raises ValueError where the file is no network."""
    import onnx

    try:
        model = onnx.load(str(path))
        _for_one_picture(model)
        model = _with_shapes(model)
    except Exception as error:  # Protobuf and onnx raise errors of many kinds.
        raise ValueError(f"this file cannot be read as ONNX: {error}") from error
    reader = _Reader(model)
    return Graph(tuple(reader.operations()), reader.input_shape)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    plain = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if all(0 not in _shape(each) for each in plain.graph.value_info):
        return plain
    # Detectors cut their tensors where a computation says: this one follows it, and takes ten times as long.
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    return SymbolicShapeInference.infer_shapes(model, auto_merge=True)


def _for_one_picture(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].dim_value:
            dimensions[0].dim_value = 1
    # What was inferred before speaks of a batch.
    del model.graph.value_info[:]


@dataclass
class _Reader:
    """Walks a file: constants are known by name with their shape, results by the operation that makes them."""

    model: onnx.ModelProto
    constants: dict[str, Shape] = field(default_factory=dict)
    makers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.shapes = {each.name: _shape(each) for each in (*graph.input, *graph.output, *graph.value_info)}
        inputs = [each for each in graph.input if each.name not in self.constants]
        self.input_shape = _shape(inputs[0]) if inputs else ()

    def operations(self) -> Iterator[Operation]:
        for node in self.model.graph.node:
            if self._is_constant(node):
                continue
            number = len(set(self.makers.values()))
            yield self._operation(node, number)
            self.makers.update(dict.fromkeys(node.output, number))

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        """Note what a node makes of constants alone, and return whether it does."""
        if node.op_type == "Constant":
            tensor = next((each.t for each in node.attribute if each.name == "value"), None)
            self.constants[node.output[0]] = tuple(tensor.dims) if tensor is not None else ()
            return True
        if node.op_type in _PASSING and node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
            return True
        return False

    def _operation(self, node: onnx.NodeProto, number: int) -> Operation:
        flowing = [name for name in node.input if name and name not in self.constants]
        weights = [self.constants[name] for name in node.input if name in self.constants]
        makes = self._shape(node.output[0])
        settings = {each.name: _value(each) for each in node.attribute}
        takes = tuple(self._shape(name) for name in flowing)
        return Operation(
            number=number,
            kind=node.op_type,
            name=node.name or node.output[0],
            path=_path(node.name),
            reads=tuple(sorted({self.makers.get(name, -1) for name in flowing})),
            takes=takes,
            makes=makes,
            macs=_macs(node.op_type, takes, weights, makes, settings),
            params=_params(node.op_type, weights),
            about=_about(node.op_type, weights, settings),
        )

    def _shape(self, name: str) -> Shape:
        return self.shapes.get(name, ())


def _shape(value: onnx.ValueInfoProto) -> Shape:
    """Return the shape; 0 is a length that is not known."""
    return tuple(each.dim_value for each in value.type.tensor_type.shape.dim)


def _value(attribute: onnx.AttributeProto) -> Any:
    return list(attribute.ints) or attribute.i or attribute.f


def _path(name: str) -> tuple[str, ...]:
    """Return the modules of "/stage0_block0/expand/conv/Conv", the outermost first."""
    return tuple(each for each in name.split("/")[:-1] if each)


def _params(kind: str, weights: Sequence[Shape]) -> int:
    counts = [math.prod(each) for each in weights]
    if kind in _ELEMENTWISE:
        # Single figures are constants of a formula such as x / 6.
        return sum(count for count in counts if count > 1)
    return sum(counts) if kind in _WEIGHTED else 0


def _macs(
    kind: str, takes: Sequence[Shape], weights: Sequence[Shape], makes: Shape, settings: Mapping[str, Any]
) -> int:
    if kind == "Conv" and weights:
        # Weights are (out, in / groups, ...): each result takes one product for each weight of its channel.
        return math.prod(makes) * math.prod(weights[0][1:])
    if kind == "ConvTranspose" and weights and takes:
        return math.prod(takes[0]) * math.prod(weights[0][1:])
    if kind == "Gemm" and weights:
        return math.prod(makes) * weights[0][1 if settings.get("transB") else 0]
    if kind == "MatMul":
        inner = takes[0][-1] if takes and takes[0] else weights[0][0] if weights else 0
        return math.prod(makes) * inner
    return 0


def _about(kind: str, weights: Sequence[Shape], settings: Mapping[str, Any]) -> str:
    """Return the settings of a convolution or pooling for people: "3x3, stride 2, 16 groups"."""
    said = []
    if kernel := settings.get("kernel_shape") or (weights[0][2:] if weights and kind.startswith("Conv") else ()):
        said.append("x".join(str(each) for each in kernel))
    if (strides := settings.get("strides")) and max(strides) > 1:
        said.append(f"stride {max(strides)}")
    if (groups := settings.get("group", 1)) and groups > 1:
        said.append(f"{groups} groups")
    return ", ".join(said)


def kinds(operations: Sequence[Operation]) -> list[tuple[str, int]]:
    """Return how many operations of each kind there are, the most frequent first."""
    found: defaultdict[str, int] = defaultdict(int)
    for one in operations:
        found[one.kind] += 1
    return sorted(found.items(), key=lambda each: (-each[1], each[0]))


if __name__ == "__main__":
    try:
        sys.stdout.write(TypeAdapter(Graph).dump_json(read_graph(Path(sys.argv[1]))).decode())
    except ValueError as unreadable:
        sys.exit(str(unreadable).splitlines()[0])
