"""Take a network that was trained and exported elsewhere: find out what it is, and write it as Milonga's own are.

Those have one input "image" (batch, 3, H, W) with an open batch, and one output: "logits" (batch, classes) of a classifier
before its softmax, or "maps" (batch, 4 * bins + classes, anchors) of a detector before its boxes are decoded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from milonga_compiler.backends.base import Floats
from milonga_compiler.boxes import anchor_count
from milonga_compiler.errors import BuildFailed
from milonga_compiler.importing.classifier import logits_of
from milonga_compiler.importing.detector import maps_of
from milonga_compiler.importing.graphs import ended, opened, renamed
from milonga_compiler.importing.reading import Foreign, read
from milonga_compiler.importing.running import run_singly, run_together

# Two kernels for one picture and for several add in another order.
_MOST_ERROR = 1e-3
# ONNX Runtime 1.17, the oldest that devices may have, reads files up to this version of the format.
_NEWEST_FORMAT = 9
_TRIED_PICTURES = 3


@dataclass(frozen=True)
class Told:
    """What people say of a file; what they leave out is taken from the file, where it says so itself."""

    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    # "stretch" or "letterbox".
    resize: str = ""
    # For a file that leaves height and width open.
    size_px: int = 0
    # Names for the outputs of a classifier whose file says none.
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adopted:
    """What a network turned out to be: "classification" or "detection", and how pictures become its inputs.

    `end_to_end` detectors tell each object once: nothing is left to suppress. `notes` are whole sentences for people.
    """

    task: str
    classes: tuple[str, ...]
    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    end_to_end: bool = False
    notes: tuple[str, ...] = ()


def adopt(path: Path, to: Path, told: Told = Told()) -> Adopted:
    """Write the network of an ONNX file as Milonga's own are and return what it is, proved on pictures made for it.

    Raises BuildFailed for one that cannot be taken, saying why and what to do.
    """
    with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
        foreign = read(path, Path(scratch), told.size_px)
        pictures = _pictures(foreign.size_px)
        made = run_singly(foreign.path, pictures)
        if not np.isfinite(made).all():
            raise BuildFailed(f"{path.name} makes values that are not finite numbers; train or export it again")
        about = _about(foreign, told, made)
        if about.task == "classification":
            model, output = logits_of(foreign, made)
        else:
            found = maps_of(foreign, pictures, made, len(about.classes))
            model, output = found.model, found.output
            about = replace(about, end_to_end=found.end_to_end)
        _write(foreign, ended(model, output, "logits" if about.task == "classification" else "maps"), to, pictures)
    return about


def _about(foreign: Foreign, told: Told, made: Floats) -> Adopted:
    classifies = made.ndim == 2 or (made.ndim == 4 and made.shape[2:] == (1, 1))
    if not classifies and made.ndim != 3:
        raise BuildFailed(
            f"{foreign.name} makes {made.shape[1:]} of a picture; taken are classifiers, which make (classes,), and"
            f" detectors, which make (4 + classes, {anchor_count(foreign.size_px)}) or (boxes, 6)"
        )
    classes = _classes(foreign, told, made.shape[1] if classifies else None)
    mean, std, resize, notes = _inputs(foreign, told, classifies)
    return Adopted("classification" if classifies else "detection", classes, foreign.size_px, mean, std, resize, notes=notes)  # fmt: skip


def _classes(foreign: Foreign, told: Told, count: int | None) -> tuple[str, ...]:
    names = told.classes or foreign.said_classes or (told.folders if count is not None else ())
    if not names:
        many = f"{count} outputs" if count is not None else "boxes"
        raise BuildFailed(
            f"{foreign.name} does not say what its {many} mean; give the names of its classes in its own order"
            " (--classes a,b,c or --classes-file FILE)"
        )
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise BuildFailed(f"the class {twice!r} is named twice; each output has a name of its own")
    if count is not None and count != len(names):
        raise BuildFailed(
            f"{foreign.name} tells {count} classes apart, and {len(names)} are named ({_shown(names)}); name all of them,"
            " in its own order"
        )
    return tuple(names)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _inputs(
    foreign: Foreign, told: Told, classifies: bool
) -> tuple[tuple[float, ...], tuple[float, ...], str, tuple[str, ...]]:
    """Return mean, std and resize, and what is to be said of them."""
    known = foreign.ultralytics_task is not None
    mean, std = told.mean or ((0.0,) * 3 if known else ()), told.std or ((1.0,) * 3 if known else ())
    if not mean or not std:
        raise BuildFailed(
            f"{foreign.name} does not say how pictures become its inputs; give what it was trained with, by channel on the"
            " scale 0 to 1: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 (ImageNet's, usual in torchvision),"
            " --mean 0,0,0 --std 1,1,1 (values from 0 to 1), or --std 0.003921569,0.003921569,0.003921569 (0 to 255)"
        )
    if min(std) <= 0:
        raise BuildFailed(f"std is {', '.join(map(str, std))}; each number must be above 0")
    resize = told.resize or ("stretch" if classifies else "letterbox")
    notes = []
    if classifies and known and not told.resize:
        notes.append("Devices stretch whole pictures to a square, where ultralytics' predict cuts out the middle.")
    return mean, std, resize, tuple(notes)


def _pictures(size_px: int) -> Floats:
    """Return inputs (n, 3, H, W) to try a network with, from 0 to 1: patches of colour of several sizes, and noise."""
    random = np.random.default_rng(0)
    made = np.zeros((_TRIED_PICTURES, 3, size_px, size_px), dtype=np.float32)
    for cells in (2, 5, 16, size_px):
        side = -(-size_px // cells)
        patches = random.random((_TRIED_PICTURES, 3, cells, cells), dtype=np.float32)
        made += np.kron(patches, np.ones((1, 1, side, side), dtype=np.float32))[..., :size_px, :size_px]
    return np.asarray(made / 4, dtype=np.float32)


def _write(foreign: Foreign, model: onnx.ModelProto, to: Path, pictures: Floats) -> None:
    """Write the network with an open batch. Raises BuildFailed where several pictures at once are not answered as each by itself is."""
    single = foreign.path.with_name(f"single-{foreign.name}")
    onnx.save(model, str(single))
    wanted = run_singly(single, pictures)
    whole = opened(renamed(model, foreign.input_name, "image"))
    whole.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(whole.graph.output[0].name, TensorProto.FLOAT, ["batch", *wanted.shape[1:]])
    )
    whole.ir_version = min(whole.ir_version, _NEWEST_FORMAT)
    # Dates and the like would make two exports of one network two networks.
    del whole.metadata_props[:]
    onnx.save(whole, str(to))
    if not _answers_alike(to, pictures, wanted):
        raise BuildFailed(
            f"{foreign.name} is made for exactly one picture at a time, in a way that cannot be undone here; export it with an"
            " open batch (torch.onnx.export: dynamic_axes for axis 0; ultralytics: dynamic=True, then import it with --size)"
        )


def _answers_alike(written: Path, pictures: Floats, wanted: Floats) -> bool:
    try:
        found = run_together(written, pictures)
    except BuildFailed:
        return False
    most = _MOST_ERROR * max(1.0, float(np.abs(wanted).max()))
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= most)
