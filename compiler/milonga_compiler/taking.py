"""Take the network of an ONNX file: as it lies there where it is in Milonga's own form, else as importing writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from milonga_compiler.boxes import POSTPROCESS, anchor_count
from milonga_compiler.errors import BuildFailed, PicturesUnusable
from milonga_compiler.importing import Told, adopt
from milonga_compiler.network import in_one_file, read_network
from milonga_compiler.pictures import Scaling


@dataclass(frozen=True)
class Taken:
    """A network in Milonga's own form, and what is known of it; `notes` are whole sentences for people.

    Of a detector's boxes that overlap by more than `iou_threshold` devices tell the surest.
    """

    path: Path
    task: str
    classes: tuple[str, ...]
    scaling: Scaling
    iou_threshold: float = POSTPROCESS["iou_threshold"]
    notes: tuple[str, ...] = ()


def take(path: Path, told: Told, scratch: Path) -> Taken:
    """Return the network; the folder takes a copy of one that is not in Milonga's form.

    Raises BuildFailed or PicturesUnusable, saying why and what to do.
    """
    if not path.is_file():
        raise BuildFailed(f"{path} is no file; name the ONNX file of a network")
    (scratch / "whole").mkdir()
    path = in_one_file(path, scratch / "whole")
    own = _own(path)
    if own is not None:
        read_network(path)
        return _as_it_is(path, own, told)
    adopted = adopt(path, scratch / "network.onnx", told)
    # Of a detector that tells each object once, none is suppressed: no two boxes overlap by more than all of them.
    iou_threshold = 1.0 if adopted.end_to_end else POSTPROCESS["iou_threshold"]
    scaling = Scaling(adopted.size_px, adopted.mean, adopted.std, adopted.resize == "letterbox")
    return Taken(
        scratch / "network.onnx", adopted.task, adopted.classes, scaling, iou_threshold,
        (f"{path.name} is taken as a network for {adopted.task}.", *adopted.notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Own:
    """How many rows an output has: classes of a classifier, or sides and classes of a detector."""

    task: str
    size_px: int
    rows: int


def _own(path: Path) -> _Own | None:
    """Return what a file in Milonga's form says of its network; None for any other, also for one that cannot be read."""
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # protobuf and onnx raise what they like, and importing says what is wrong.
        return None
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if [value.name for value in inputs] != ["image"] or not graph.output:
        return None
    image, output = (value.type.tensor_type for value in (inputs[0], graph.output[0]))
    batch, *sizes = [axis.dim_value for axis in image.shape.dim] or [0]
    _, *made = [axis.dim_value for axis in output.shape.dim] or [0]
    if image.elem_type != TensorProto.FLOAT or batch or not made or not all(made):
        return None
    if len(sizes) != 3 or sizes[0] != 3 or sizes[1] != sizes[2] or not sizes[1]:
        return None
    if len(made) == 1:
        return _Own("classification", sizes[1], made[0])
    if len(made) == 2 and made[1] == anchor_count(sizes[1]):
        return _Own("detection", sizes[1], made[0])
    return None


def _as_it_is(path: Path, own: _Own, told: Told) -> Taken:
    detects = own.task == "detection"
    mean, std = told.mean or ((0.0,) * 3 if detects else ()), told.std or ((1.0,) * 3 if detects else ())
    if not mean or not std:
        raise PicturesUnusable("say how the network was trained: --mean and --std, or --like a bundle of it")
    if min(std) <= 0:
        raise PicturesUnusable(f"std is {', '.join(map(str, std))}; each number must be above 0")
    letterbox = (told.resize or ("letterbox" if detects else "stretch")) == "letterbox"
    classes = _found(own, told) if detects else _told_apart(path, own, told)
    return Taken(path, own.task, classes, Scaling(own.size_px, mean, std, letterbox))


def _told_apart(path: Path, own: _Own, told: Told) -> tuple[str, ...]:
    names = told.classes or told.folders or tuple(str(index) for index in range(own.rows))
    if len(names) != own.rows:
        named = "are named" if told.classes else "folders of pictures there are"
        raise BuildFailed(
            f"{path} knows {own.rows} classes, and {len(names)} {named}; name all of them in its own order: --classes a,b,c"
        )
    return names


def _found(own: _Own, told: Told) -> tuple[str, ...]:
    if not told.classes:
        raise BuildFailed("say what the detector finds: --classes bolt,nut, in its order, or --like a bundle of it")
    bins, rest = divmod(own.rows - len(told.classes), 4)
    if bins < 1 or rest:
        raise BuildFailed(f"an output of {own.rows} rows is not that of a detector of {len(told.classes)} classes")
    return told.classes
