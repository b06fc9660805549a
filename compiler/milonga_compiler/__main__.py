"""`milonga-compiler build`: build a network for one target where you are, for example on a device."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.boxes import Detected, anchor_count
from milonga_compiler.build import Built, State, build
from milonga_compiler.bundle import read_bundle
from milonga_compiler.errors import BuildFailed, CompilerError, PicturesUnusable
from milonga_compiler.parity import Evidence, Labelled
from milonga_compiler.pictures import Pictures, Scaling, load_pictures
from milonga_compiler.target import Target, known_targets
from milonga_compiler.tuning import Tuning

# Entries that a bundle for another target of the same network shares; its reference is near enough to detect drift.
_SHARED = ("project", "model_version", "subnet", "reference")


def _three(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.48,0.46,0.41")
    return values


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="milonga-compiler build", description=__doc__)
    parser.add_argument(
        "model",
        type=Path,
        help="ONNX file with input 'image' (n, 3, H, W) and one output: a classifier's (n, classes), or a detector's"
        " (n, 4 * bins + classes, anchors)",
    )
    parser.add_argument("--target", required=True, metavar="ENGINE/PRECISION", help=", ".join(known_targets()))
    parser.add_argument(
        "--architecture", default="", help="processor to compile machine code for, as uname -m says (default: this one)"
    )
    parser.add_argument(
        "--calibration", type=Path, required=True, metavar="PICTURES",
        help="folder of pictures (sub-folders name their classes) or npz file (x and, if known, y); every other picture"
        " calibrates, the rest prove the build: a detector's by the boxes that it finds itself",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the bundle goes")
    parser.add_argument("--like", type=Path, metavar="BUNDLE", help="take names, classes and scaling from this bundle")
    parser.add_argument(
        "--classes", metavar="A,B", help="names in the network's order (default: the folders of pictures)"
    )
    parser.add_argument("--mean", type=_three, metavar="R,G,B", help="of the training pictures, on the scale 0 to 1")
    parser.add_argument("--std", type=_three, metavar="R,G,B", help="of the training pictures, on the scale 0 to 1")
    parser.add_argument(
        "--max-lost-points", type=float, default=0.5, help="accuracy it may lose (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="for proving it (default: %(default)s)")
    parser.add_argument(
        "--database", type=Path, metavar="FOLDER", help="take kernels that milonga-compiler tune left there"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 for a verified build, 1 for one that is not, 2 for input that cannot be used."""
    given = _arguments(arguments)
    try:
        built = _build(given, Target.parse(given.target, given.architecture))
    except (CompilerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    digest = built.bundle.digest if built.bundle else None
    if given.json:
        said: dict[str, Any] = {
            "target": str(built.target),
            "state": str(built.state),
            "reason": built.reason,
            "bundle": digest,
        }
        said["accuracy"] = built.report.accuracy if built.report else None
        said["subnet_accuracy"] = built.report.subnet_accuracy if built.report else None
        print(json.dumps(said))
    else:
        print(f"{built.target}: {built.state} {built.reason}{f' in {given.output}' if built.bundle else ''}")
    return 0 if built.state is State.VERIFIED else 1


def _build(given: argparse.Namespace, target: Target) -> Built:
    like = read_bundle(given.like).manifest if given.like else {}
    network = _inspected(given.model)
    scaling = _scaling(given, like, network)
    pictures = load_pictures(given.calibration, scaling)
    if len(pictures.inputs) < 2:
        raise PicturesUnusable(f"{given.calibration} holds one picture; two are the least, some hundred are better")
    classes = _classes(given, like, network, pictures)
    shared = {key: like[key] for key in _SHARED if key in like}
    size_px = network.size_px
    manifest = {
        "project": "", "model_version": "", "subnet": "", "expected_ms": None,
        **shared,
        "task": network.task, "classes": classes,
        "input": {"name": "image", "shape": [1, 3, size_px, size_px], "dtype": "float32",
                  "mean": list(scaling.mean), "std": list(scaling.std), "size_px": size_px,
                  "resize": "letterbox" if scaling.letterbox else "stretch"},
    }  # fmt: skip
    proof = pictures.inputs[1::2]
    outputs = backend("onnxruntime").run(given.model, proof, given.threads)
    if network.task == "detection":
        evidence: Evidence = Detected(proof, outputs, len(classes))
    else:
        evidence = _labelled(pictures, proof, outputs, classes)
    return build(
        given.model, target, given.output, evidence, pictures.inputs[::2], manifest, given.max_lost_points, given.threads,
        tell=lambda words: print(words, file=sys.stderr), tuning=Tuning(given.database) if given.database else None,
    )  # fmt: skip


@dataclass(frozen=True)
class _Inspected:
    """What the file says of a network: its task, and how many rows its output has: classes, or sides and classes."""

    task: str
    size_px: int
    rows: int


def _inspected(path: Path) -> _Inspected:
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf and onnx raise what they like.
        raise BuildFailed(f"{path} is not an ONNX file: {error}") from error
    values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
    image = values.get("image")
    if image is None or image.elem_type != TensorProto.FLOAT or not graph.output:
        raise BuildFailed(f"{path} needs a float input 'image' and one output; it has: {', '.join(values)}")
    size_px = image.shape.dim[-1].dim_value if image.shape.dim else 0
    shape = [axis.dim_value for axis in graph.output[0].type.tensor_type.shape.dim][1:]
    if not size_px or not shape or not all(shape):
        raise BuildFailed(
            f"{path} leaves its size in pixels or the sizes of its output open; export it with both fixed"
        )
    if len(shape) == 1:
        return _Inspected("classification", int(size_px), int(shape[0]))
    if len(shape) == 2 and shape[1] == anchor_count(size_px):
        return _Inspected("detection", int(size_px), int(shape[0]))
    raise BuildFailed(
        f"{path} makes {tuple(shape)} of a picture: classifiers make (classes,), detectors (4 * bins + classes,"
        f" {anchor_count(size_px)}) at {size_px} px, before boxes are decoded; export it as milonga does"
    )


def _classes(given: argparse.Namespace, like: dict[str, Any], network: _Inspected, pictures: Pictures) -> list[str]:
    """Return the names of the classes, as given, of the other bundle, or of the folders of pictures."""
    named = given.classes.split(",") if given.classes else [str(name) for name in like.get("classes", [])]
    if network.task == "classification":
        names = named or pictures.classes or [str(index) for index in range(network.rows)]
        if given.classes and len(names) != network.rows:
            raise BuildFailed(f"{given.model} knows {network.rows} classes and --classes names {len(names)}")
        return names
    if not named:
        raise BuildFailed("say what the detector finds: --classes bolt,nut, in its order, or --like a bundle of it")
    bins, rest = divmod(network.rows - len(named), 4)
    if bins < 1 or rest:
        raise BuildFailed(f"an output of {network.rows} rows is not that of a detector of {len(named)} classes")
    return named


def _scaling(given: argparse.Namespace, like: dict[str, Any], network: _Inspected) -> Scaling:
    detects = network.task == "detection"
    described = like.get("input") or ({"mean": [0.0] * 3, "std": [1.0] * 3} if detects else {})
    mean, std = given.mean or described.get("mean"), given.std or described.get("std")
    if mean is None or std is None:
        raise PicturesUnusable("say how the network was trained: --mean and --std, or --like a bundle of it")
    letterbox = described.get("resize", "letterbox" if detects else "stretch") == "letterbox"
    return Scaling(network.size_px, mean, std, letterbox)


def _labelled(pictures: Pictures, proof: Floats, logits: Floats, classes: list[str]) -> Evidence:
    """Hold the build against the network itself; where labels are unknown, the network's answers stand for them."""
    if pictures.labels is None:
        return Labelled(proof, logits, logits.argmax(axis=1).astype(np.int64))
    index = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(pictures.classes) - set(classes))
    if unknown:
        raise PicturesUnusable(f"the network knows no class {', '.join(unknown)}; it knows: {', '.join(classes)}")
    labels = pictures.labels[1::2]
    if pictures.classes:
        labels = np.array([index[pictures.classes[label]] for label in labels], dtype=np.int64)
    return Labelled(proof, logits, labels)


if __name__ == "__main__":
    from milonga_compiler import cli

    sys.exit(cli.main())
