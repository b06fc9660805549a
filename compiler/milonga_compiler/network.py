"""Read an ONNX file and say, before any engine sees it, what keeps it from being built."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from milonga_compiler.errors import BuildFailed

# Older operator sets broadcast by attributes that engines no longer read; torch has exported 9 and newer since 2019.
OLDEST_OPSET = 7
_AGAIN = "copy or export it again"


@dataclass(frozen=True)
class Network:
    """A checked file: one float32 input (batch, *shape), whose batch may be open, and at least one output.

    `operators` are named as ONNX names them, those of other domains as "domain.Name".
    """

    path: Path
    input_name: str
    shape: tuple[int, ...]
    batch: int | None
    outputs: tuple[str, ...]
    opset: int
    operators: frozenset[str]

    def full_name(self, operator: str) -> str:
        """Return the operator with its domain, which engines leave out; as given where the network has none so called."""
        return next((name for name in sorted(self.operators) if name.rpartition(".")[2] == operator), operator)


def read_network(path: Path) -> Network:
    """Return what the file says of itself. Raises BuildFailed for one that no engine could build, saying why."""
    model = _loaded(path)
    opset = _opset(path, model)
    _check(path, model)
    # Older exporters list weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BuildFailed(f"{path.name} must have one float32 input, the picture; its inputs are: {names}")
    batch, *shape = [axis.dim_value or axis.dim_param for axis in inputs[0].type.tensor_type.shape.dim] or [""]
    if not shape or not all(isinstance(size, int) for size in shape):
        said = ", ".join(str(size or "?") for size in (batch, *shape))
        raise BuildFailed(
            f"{path.name} leaves sizes of its input {inputs[0].name} open ({said}); only the batch may be: export it"
            " again with height and width fixed (torch.onnx.export: dynamic_axes or dynamic_shapes for axis 0 alone)"
        )
    return Network(
        path=path,
        input_name=inputs[0].name,
        shape=tuple(int(size) for size in shape),
        batch=batch if isinstance(batch, int) else None,
        outputs=tuple(value.name for value in model.graph.output),
        opset=opset,
        operators=frozenset(_operators(model.graph)),
    )


def fix_batch(network: Network, folder: Path, batch: int = 1) -> Path:
    """Write the network with its batch fixed, for engines that know no other shapes, and return the file.

    Shapes inside follow by ONNX's own inference. Raises BuildFailed where the batch is fixed to another number.
    """
    if network.batch not in (None, batch):
        raise BuildFailed(
            f"{network.path.name} takes exactly {network.batch} pictures at a time; export it with an open batch or 1"
        )
    model = onnx.load(str(network.path))
    for value in model.graph.input:
        if value.name == network.input_name:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    path = folder / f"batch-{batch}.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
    return path


def in_one_file(path: Path, folder: Path) -> Path:
    """Return the file; where its weights lie in others beside it, as torch.onnx.export leaves them, a copy in the folder that holds all.

    What is no ONNX file is returned as it is, for whoever reads it to say so. Raises BuildFailed where weights are missing.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf and onnx raise what they like.
        return path
    elsewhere = files_of_weights(model)
    if not elsewhere:
        return path
    missing = [name for name in elsewhere if not (path.parent / name).is_file()]
    if missing:
        raise BuildFailed(
            f"weights of {path.name} lie in other files, and {', '.join(missing)} is not beside it; copy it there too, or export the"
            " network into one file (torch.onnx.export: external_data=False)"
        )
    whole = folder / path.name
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        onnx.save(model, str(whole))
    except Exception as error:  # Several kinds, by version; more than 2 GB are too many for protobuf.
        raise BuildFailed(f"weights of {path.name} cannot be put into one file with it: {error}") from error
    return whole


def files_of_weights(model: onnx.ModelProto) -> list[str]:
    """Return the other files that weights of the model lie in, by the names that it has for them."""
    tensors = filter(onnx.external_data_helper.uses_external_data, model.graph.initializer)
    named = (entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return list(dict.fromkeys(named))


def copy_whole(network: Network, to: Path) -> None:
    """Write the network into one file, with the weights that lie beside the original, if any; else byte for byte."""
    if files_of_weights(_bare(network.path)):
        onnx.save(onnx.load(str(network.path)), str(to))
    else:
        shutil.copyfile(str(network.path), str(to))


def _bare(path: Path) -> onnx.ModelProto:
    """Return the model without weights that lie in other files."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise BuildFailed(f"{path} is missing; export the network there") from error
    except Exception as error:  # protobuf and onnx raise what they like.
        raise BuildFailed(f"{path.name} is not a whole ONNX file, perhaps cut off on the way; {_AGAIN}") from error


def _loaded(path: Path) -> onnx.ModelProto:
    model = _bare(path)
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # Several kinds, by version.
        raise BuildFailed(f"weights of {path.name} must lie beside it: {error}") from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise BuildFailed(f"{path.name} is not a whole ONNX file: it has no network in it; {_AGAIN}")
    return model


def _check(path: Path, model: onnx.ModelProto) -> None:
    try:
        # Structure only: operators that ONNX does not know are the engine's to refuse, by name.
        onnx.checker.check_graph(model.graph, _context(model))
    except onnx.checker.ValidationError as error:
        if "No Op registered" not in str(error) and "No opset import" not in str(error):
            reason = str(error).strip().splitlines()[0]
            raise BuildFailed(f"{path.name} is not valid ONNX: {reason}; {_AGAIN}") from error


def _context(model: onnx.ModelProto) -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {each.domain: each.version for each in model.opset_import}
    return context


def _opset(path: Path, model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators. Raises BuildFailed for one that is too old or not known yet."""
    newest = int(onnx.defs.onnx_opset_version())
    version = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=newest)
    if not OLDEST_OPSET <= version <= newest:
        raise BuildFailed(
            f"{path.name} is written in opset {version}, and {OLDEST_OPSET} to {newest} are known here; export it"
            " again with opset_version=17, which all engines read"
        )
    return int(version)


def _operators(graph: onnx.GraphProto) -> set[str]:
    found = set()
    for node in graph.node:
        found.add(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= _operators(inner)
    return found
