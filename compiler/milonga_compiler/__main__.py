"""`milonga-compiler build`: build a network for one target where you are, for example on a device."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from milonga_compiler.backends import backend
from milonga_compiler.build import Built, State, build
from milonga_compiler.bundle import read_bundle
from milonga_compiler.errors import BuildFailed, CompilerError, PicturesUnusable
from milonga_compiler.parity import Evidence, Labelled
from milonga_compiler.pictures import Pictures, Scaling, load_pictures
from milonga_compiler.target import Target, known_targets

# Entries that a bundle for another target of the same network shares; its reference is near enough to detect drift.
_SHARED = ("task", "project", "model_version", "subnet", "classes", "reference")


def _three(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.48,0.46,0.41")
    return values


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="milonga-compiler build", description=__doc__)
    parser.add_argument("model", type=Path, help="ONNX file with input 'image' (n, 3, H, W) and output 'logits'")
    parser.add_argument("--target", required=True, metavar="ENGINE/PRECISION", help=", ".join(known_targets()))
    parser.add_argument(
        "--architecture", default="", help="processor to compile machine code for, as uname -m says (default: this one)"
    )
    parser.add_argument(
        "--calibration", type=Path, required=True, metavar="PICTURES",
        help="folder of pictures (sub-folders name their classes) or npz file (x and, if known, y); every other picture"
        " calibrates, the rest prove the build",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the bundle goes")
    parser.add_argument("--like", type=Path, metavar="BUNDLE", help="take names, classes and scaling from this bundle")
    parser.add_argument("--mean", type=_three, metavar="R,G,B", help="of the training pictures, on the scale 0 to 1")
    parser.add_argument("--std", type=_three, metavar="R,G,B", help="of the training pictures, on the scale 0 to 1")
    parser.add_argument(
        "--max-lost-points", type=float, default=0.5, help="accuracy it may lose (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="for proving it (default: %(default)s)")
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
    size_px, classes_count = _shapes(given.model)
    like = read_bundle(given.like).manifest if given.like else {}
    scaling = _scaling(given, like, size_px)
    pictures = load_pictures(given.calibration, scaling)
    if len(pictures.inputs) < 2:
        raise PicturesUnusable(f"{given.calibration} holds one picture; two are the least, some hundred are better")
    shared = {key: like[key] for key in _SHARED if key in like}
    manifest = {
        "task": "classification", "project": "", "model_version": "", "subnet": "", "expected_ms": None,
        "classes": pictures.classes or [str(index) for index in range(classes_count)],
        **shared,
        "input": {"name": "image", "shape": [1, 3, size_px, size_px], "dtype": "float32",
                  "mean": list(scaling.mean), "std": list(scaling.std), "size_px": size_px},
    }  # fmt: skip
    evidence = _evidence(given, pictures, manifest["classes"])
    calibration = pictures.inputs[::2]
    return build(
        given.model, target, given.output, evidence, calibration, manifest, given.max_lost_points, given.threads,
        tell=lambda words: print(words, file=sys.stderr),
    )  # fmt: skip


def _shapes(path: Path) -> tuple[int, int]:
    """Return the size of the input in pixels and how many classes there are."""
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf and onnx raise what they like.
        raise BuildFailed(f"{path} is not an ONNX file: {error}") from error
    values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
    image, logits = values.get("image"), values.get("logits")
    if image is None or logits is None or image.elem_type != TensorProto.FLOAT:
        raise BuildFailed(f"{path} needs a float input 'image' and an output 'logits'; it has: {', '.join(values)}")
    size_px, classes_count = image.shape.dim[-1].dim_value, logits.shape.dim[-1].dim_value
    if not size_px or not classes_count:
        raise BuildFailed(f"{path} leaves its size in pixels or its number of classes open; export it with both fixed")
    return int(size_px), int(classes_count)


def _scaling(given: argparse.Namespace, like: dict[str, Any], size_px: int) -> Scaling:
    described = like.get("input", {})
    mean, std = given.mean or described.get("mean"), given.std or described.get("std")
    if mean is None or std is None:
        raise PicturesUnusable("say how the network was trained: --mean and --std, or --like a bundle of it")
    return Scaling(size_px, mean, std)


def _evidence(given: argparse.Namespace, pictures: Pictures, classes: list[str]) -> Evidence:
    """Hold the build against the network itself; where labels are unknown, the network's answers stand for them."""
    proof = pictures.inputs[1::2]
    logits = backend("onnxruntime").run(given.model, proof, given.threads)
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
