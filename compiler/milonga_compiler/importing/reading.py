"""Read an ONNX file from elsewhere, and say in the user's words what keeps it from being taken."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from milonga_compiler.errors import BuildFailed
from milonga_compiler.network import files_of_weights, read_network

_TYPES = {
    TensorProto.FLOAT16: "float16; export it without half=True",
    TensorProto.DOUBLE: "float64; export it in float32",
    TensorProto.UINT8: "uint8; export it to take float32, with its scaling given as mean and std",
}
_SMALLEST_PX, _LARGEST_PX = 16, 4096


@dataclass(frozen=True)
class Foreign:
    """A file that an engine can read: one float32 input (batch, 3, size_px, size_px) and one output.

    `path` is a copy with its sizes fixed; `name` is the file's own. `said_classes` and `ultralytics_task` are what
    ultralytics wrote into it, if it did.
    """

    path: Path
    name: str
    model: onnx.ModelProto
    input_name: str
    output_name: str
    size_px: int
    said_classes: tuple[str, ...] = ()
    ultralytics_task: str | None = None


def read(path: Path, scratch: Path, size_px: int = 0) -> Foreign:
    """Return the file; the folder takes a copy. `size_px` fixes height and width where they are open.

    Raises BuildFailed.
    """
    model = _loaded(path)
    if files_of_weights(model):
        raise BuildFailed(
            f"weights of {path.name} lie in other files; export it into one (torch.onnx.export: external_data=False), or put them"
            f" into one: onnx.save(onnx.load('{path.name}'), 'one.onnx')"
        )
    said = {each.key: each.value for each in model.metadata_props}
    task = _ultralytics_task(path, said)
    image = _image(path, model)
    _fix_size(path, image, size_px)
    copied = scratch / path.name
    onnx.save(model, str(copied))
    network = read_network(copied)
    _check_shape(path, network.shape, size_px)
    if len(network.outputs) != 1:
        raise BuildFailed(
            f"{path.name} has {len(network.outputs)} outputs ({', '.join(network.outputs)}); taken are classifiers and"
            " detectors, which have one; export it with that one alone"
        )
    classes = _names(said.get("names", "")) if task else ()
    return Foreign(copied, path.name, model, network.input_name, network.outputs[0], network.shape[1], classes, task)


def _loaded(path: Path) -> onnx.ModelProto:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise BuildFailed(f"{path.name} is empty; copy or export it again")
    if start.startswith((b"PK", b"\x80")):
        raise BuildFailed(
            f"{path.name} is not ONNX but looks like a checkpoint of PyTorch; export it there (torch.onnx.export), or for one of"
            " ultralytics: yolo export model=FILE.pt format=onnx"
        )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise what they like.
        # The first field of a model is its version: tag 8.
        whole = "is not a whole ONNX file, perhaps cut off on the way" if start[0] == 8 else "is not an ONNX file"
        raise BuildFailed(f"{path.name} {whole}; copy or export it again") from error
    if not model.graph.node or not model.graph.output:
        raise BuildFailed(f"{path.name} is not a whole ONNX file: it has no network in it; copy or export it again")
    return model


def _image(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        named = ", ".join(value.name for value in inputs) or "none"
        raise BuildFailed(f"{path.name} must have one input, the picture; its inputs are: {named}")
    kind = inputs[0].type.tensor_type.elem_type
    if kind in _TYPES:
        raise BuildFailed(f"{path.name} takes {_TYPES[kind]}")
    if len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise BuildFailed(
            f"{path.name} takes {_said(inputs[0])}, and pictures are (batch, 3, height, width); export it to take them so"
        )
    return inputs[0]


def _said(value: onnx.ValueInfoProto) -> str:
    sizes = [str(axis.dim_value or axis.dim_param or "?") for axis in value.type.tensor_type.shape.dim]
    return f"({', '.join(sizes)})"


def _fix_size(path: Path, image: onnx.ValueInfoProto, size_px: int) -> None:
    axes = image.type.tensor_type.shape.dim
    if all(axis.dim_value for axis in axes[1:]):
        return
    if not size_px:
        raise BuildFailed(
            f"{path.name} leaves sizes of its input {image.name} open {_said(image)}; say for which size of pictures it is:"
            " --size 224"
        )
    for axis, size in zip(axes[1:], (3, size_px, size_px)):
        if not axis.dim_value:
            axis.dim_value = size


def _check_shape(path: Path, shape: tuple[int, ...], size_px: int) -> None:
    channels, height, width = shape
    if channels != 3 and shape[2] == 3:
        raise BuildFailed(
            f"{path.name} takes pictures with their channels last {shape}; export it to take (batch, 3, height, width)"
        )
    if channels != 3:
        raise BuildFailed(f"{path.name} takes pictures of {channels} channels; devices give it 3: red, green, blue")
    if height != width:
        raise BuildFailed(
            f"{path.name} takes pictures of {width} by {height} pixels; devices give it squares: export it with one size"
            f" (ultralytics: imgsz={max(height, width)})"
        )
    if size_px not in (0, height):
        raise BuildFailed(f"{path.name} is made for pictures of {height} pixels, not {size_px}; leave --size out")
    if not _SMALLEST_PX <= height <= _LARGEST_PX:
        raise BuildFailed(f"{path.name} takes pictures of {height} pixels; {_SMALLEST_PX} to {_LARGEST_PX} are taken")


def _ultralytics_task(path: Path, said: Mapping[str, str]) -> str | None:
    """Return what ultralytics says that the network does, None for a file of other origin."""
    if said.get("author") != "Ultralytics" or "task" not in said:
        return None
    if said["task"] not in ("detect", "classify"):
        raise BuildFailed(
            f"{path.name} is made by ultralytics for the task {said['task']!r}; taken are 'detect' and 'classify'"
        )
    return said["task"]


def _names(text: str) -> tuple[str, ...]:
    """Return class names of what ultralytics writes: "{0: 'bolt', 1: 'nut'}"."""
    try:
        found: Any = ast.literal_eval(text)
        return tuple(str(found[number]) for number in range(len(found)))
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return ()
