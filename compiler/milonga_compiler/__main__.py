"""`milonga-compiler build`: build a network for one target where you are, for example on a device."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.boxes import Detected
from milonga_compiler.build import Built, State, build, log_of
from milonga_compiler.bundle import BESIDE_THE_MODEL, Bundle, demand_place, read_bundle
from milonga_compiler.environments import interpreter
from milonga_compiler.errors import BuildFailed, CompilerError, PicturesUnusable, UnsupportedOperators, in_words
from milonga_compiler.importing import Told
from milonga_compiler.importing.running import unsupported
from milonga_compiler.parity import Evidence, Labelled
from milonga_compiler.pictures import Pictures, class_names, demand_pictures, load_pictures
from milonga_compiler.taking import take
from milonga_compiler.target import Target, known_targets
from milonga_compiler.tuning import Tuning

# Entries that a bundle for another target of the same network shares; its reference is near enough to detect drift.
_SHARED = ("project", "model_version", "subnet", "statistics_of", "reference")

# What is right less often most likely gets its pictures, or its names, in another way than it was trained with.
_MOSTLY_WRONG = 0.5

# As a hub names its projects: it stands in URLs.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


_EPILOG = "Exit code: 0 for a verified build, 1 for one that is not, 2 for input that cannot be used, 130 where it was stopped."

# What most likely helps a build that was refused: one that ran, and one that did not.
_AFTER_LOSS = "give more pictures, allow more (--max-lost-points), or name another target"
_AFTER_FAILURE = "name another target (milonga-compiler engines lists them), or export the network in another way"


def _three(text: str) -> list[float]:
    values = [_finite(part, text) for part in text.split(",")]
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.48,0.46,0.41")
    return values


def _finite(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.48,0.46,0.41")
    return value


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of points from 0 to 100")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name; use 1 to 63 of a-z, 0-9 and '-'")
    return text


def _name_of(file: Path) -> str:
    """Return the file's name as one that a network can have."""
    return re.sub(r"[^a-z0-9]+", "-", file.stem.lower())[:63].strip("-") or "model"


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="milonga-compiler build", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "model",
        type=Path,
        help="ONNX file of a classifier or a YOLO detector: as milonga exports it, or as torch.onnx.export or ultralytics do",
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
    parser.add_argument("--name", type=_name, metavar="NAME", help="what it is served as (default: the file's name)")
    parser.add_argument("--like", type=Path, metavar="BUNDLE", help="take names, classes and scaling from this bundle")
    parser.add_argument(
        "--classes",
        metavar="A,B",
        help="names in the network's order (default: what the file says, or the folders of pictures)",
    )
    parser.add_argument("--classes-file", type=Path, metavar="FILE", help="the same, one name a line")
    parser.add_argument(
        "--size", type=_count, default=0, metavar="PIXELS", help="for a file that leaves height and width open"
    )
    parser.add_argument("--mean", type=_three, metavar="R,G,B", help="of the training pictures, on the scale 0 to 1")
    parser.add_argument("--std", type=_three, metavar="R,G,B", help="of the training pictures, on the scale 0 to 1")
    parser.add_argument(
        "--max-lost-points",
        type=_points,
        default=0.5,
        metavar="POINTS",
        help="accuracy it may lose (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=_count, default=1, metavar="COUNT", help="for proving it (default: %(default)s)"
    )
    parser.add_argument(
        "--database", type=Path, metavar="FOLDER", help="take kernels that milonga-compiler tune left there"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 for a verified build, 1 for one that is not, 2 for input that cannot be used, 130 where it was stopped."""
    given = _arguments(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
            built = _build(given, Target.parse(given.target, given.architecture), Path(scratch))
    except KeyboardInterrupt:
        print(f"stopped; {given.output} is as it was", file=sys.stderr)
        return 130
    except (CompilerError, OSError) as error:
        print(f"error: {in_words(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    print(json.dumps(_figures(built)) if given.json else _words(built, given.output))
    return 0 if built.state is State.VERIFIED else 1


def _words(built: Built, folder: Path) -> str:
    reason = f": {built.reason}" if built.reason else ""
    lines = [f"{built.target}: {built.state}{reason}"]
    if report := built.report:
        allowed = f", {report.allowed_error:.2g} allowed" if report.allowed_error is not None else ""
        agreed = f"; {report.agreement:.1%} decided as the network does" if report.agreement is not None else ""
        lines.append(
            f"  accuracy {report.accuracy:.1%}, the network's {report.subnet_accuracy:.1%}, on {report.count} pictures;"
            f" largest error {report.max_abs_error:.2g}{allowed}{agreed}"
        )
    if built.bundle:
        lines.append(f"  {folder}: {_model_bytes(built.bundle) / 1e6:.3g} MB, {built.bundle.digest}")
    if built.state is State.REJECTED:
        lines.append(f"  next: {_AFTER_LOSS if built.report else _AFTER_FAILURE}")
    lines.append(f"  log: {log_of(folder)}")
    return "\n".join(lines)


def _figures(built: Built) -> dict[str, Any]:
    report, bundle = built.report, built.bundle
    return {
        "target": str(built.target),
        "state": str(built.state),
        "reason": built.reason,
        "bundle": bundle.digest if bundle else None,
        "size_bytes": _model_bytes(bundle) if bundle else None,
        "accuracy": report.accuracy if report else None,
        "subnet_accuracy": report.subnet_accuracy if report else None,
        # JSON knows no infinity.
        "max_abs_error": report.max_abs_error if report and math.isfinite(report.max_abs_error) else None,
        "allowed_error": report.allowed_error if report else None,
        "pictures": report.count if report else None,
        "agreement": report.agreement if report else None,
    }


def _model_bytes(bundle: Bundle) -> int:
    return sum(file.size_bytes for file in bundle.files if file.path not in BESIDE_THE_MODEL)


def _build(given: argparse.Namespace, target: Target, scratch: Path) -> Built:
    # What needs no network to be refused is refused before one is read.
    interpreter(target.engine)
    demand_place(given.output)
    demand_pictures(given.calibration)
    like = read_bundle(given.like).manifest if given.like else {}
    network = take(given.model, _told(given, like), scratch)
    for note in network.notes:
        _tell(note)
    pictures = load_pictures(given.calibration, network.scaling)
    if len(pictures.inputs) < 2:
        raise PicturesUnusable(f"{given.calibration} holds one picture; two are the least, some hundred are better")
    classes, size_px = list(network.classes), network.scaling.size_px
    shared = {key: like[key] for key in _SHARED if key in like}
    manifest = {
        "model_version": "", "subnet": "", "expected_ms": None,
        **shared,
        "project": given.name or shared.get("project") or _name_of(given.model),
        "task": network.task, "classes": classes,
        "input": {"name": "image", "shape": [1, 3, size_px, size_px], "dtype": "float32",
                  "mean": list(network.scaling.mean), "std": list(network.scaling.std), "size_px": size_px,
                  "resize": "letterbox" if network.scaling.letterbox else "stretch"},
    }  # fmt: skip
    proof = pictures.inputs[1::2]
    outputs = _outputs(network.path, proof, given.threads)
    if network.task == "detection":
        evidence: Evidence = Detected(proof, outputs, len(classes), network.iou_threshold)
    else:
        evidence = _labelled(pictures, proof, outputs, classes)
        if evidence.subnet_accuracy < _MOSTLY_WRONG:
            _tell(
                f"The network itself is right on {evidence.subnet_accuracy:.1%} of the pictures: are its classes in the order"
                f" {_shown(classes)} (else: --classes), and are mean and std those that it was trained with?"
            )
    return build(
        network.path, target, given.output, evidence, pictures.inputs[::2], manifest, given.max_lost_points, given.threads,
        tell=_tell, tuning=Tuning(given.database) if given.database else None,
    )  # fmt: skip


def _shown(classes: list[str]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _told(given: argparse.Namespace, like: dict[str, Any]) -> Told:
    """Return what the command line says of the network, else the other bundle."""
    described = like.get("input") or {}
    named = [name.strip() for name in given.classes.split(",")] if given.classes else _listed(given.classes_file)
    return Told(
        classes=tuple(named or [str(name) for name in like.get("classes", [])]),
        mean=tuple(given.mean or described.get("mean", ())),
        std=tuple(given.std or described.get("std", ())),
        resize=str(described.get("resize", "")),
        size_px=given.size,
        folders=class_names(given.calibration),
    )


def _listed(file: Path | None) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file is not None else []
    except (OSError, UnicodeDecodeError) as error:
        raise BuildFailed(f"{file} is no file of names, one a line: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _outputs(network: Path, pictures: Floats, threads: int) -> Floats:
    """Return what the network itself makes of pictures, by ONNX Runtime: what a build is held to."""
    try:
        return backend("onnxruntime").run(network, pictures, threads)
    except UnsupportedOperators as error:
        raise unsupported(network, error) from error


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
