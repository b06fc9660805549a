"""`python -m milonga_compiler`: build a network for one target where you are, for example on a device."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from milonga_compiler.backends import backend
from milonga_compiler.build import Evidence, build
from milonga_compiler.errors import CompilerError
from milonga_compiler.target import Target, known_targets


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="milonga_compiler", description=__doc__)
    parser.add_argument("model", type=Path, help="ONNX file with input 'image' (n, 3, H, W) and output 'logits'")
    parser.add_argument("--target", required=True, metavar="ENGINE/PRECISION", help=", ".join(known_targets()))
    parser.add_argument(
        "--pictures", type=Path, required=True, metavar="FILE.npz",
        help="normalised pictures: arrays x (n, 3, H, W) float32 and y (n,) labels; half calibrates, half proves",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the bundle goes")
    parser.add_argument(
        "--max-lost-points", type=float, default=0.5, help="accuracy it may lose (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 for a verified build, 1 for a rejected one, 2 for input that cannot be used."""
    given = _arguments(arguments)
    try:
        target = Target.parse(given.target)
        with np.load(str(given.pictures)) as arrays:
            pictures, labels = arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)
        half = len(pictures) // 2
        reference = backend("onnxruntime").run(given.model, pictures[half:], 1)
        evidence = Evidence(pictures[half:], reference, labels[half:])
        manifest = {"task": "classification", "input": {"name": "image", "shape": [1, *pictures.shape[1:]]}}
        built = build(given.model, target, given.output, evidence, pictures[:half], manifest, given.max_lost_points)
    except (CompilerError, OSError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    accuracy = built.report.accuracy if built.report else None
    digest = built.bundle.digest if built.bundle else None
    if given.json:
        print(json.dumps({"target": str(target), "state": built.state, "reason": built.reason, "bundle": digest,
                          "accuracy": accuracy}))  # fmt: skip
    else:
        print(f"{target}: {built.state} {built.reason} {f'in {given.output}' if built.bundle else ''}".rstrip())
    return 0 if built.state == "VERIFIED" else 1


if __name__ == "__main__":
    sys.exit(main())
