"""A network as the files that an engine runs, built as the compiler builds it first: what is measured and evaluated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from milonga_compiler.backends import backend
from milonga_compiler.backends.base import Floats
from milonga_compiler.bundle import MANIFEST, read_bundle, write_bundle
from milonga_compiler.engines import ENGINES, Precision
from milonga_compiler.errors import BuildFailed
from milonga_compiler.target import Target


@dataclass(frozen=True)
class Built:
    """The file that the engine loads, and all that a device is sent to time it, by name."""

    model: Path
    files: dict[str, Path]


def built(onnx: Path, target: Target, calibration: Callable[[], Floats]) -> Built:
    """Build an ONNX file for a target, beside it; what is there is kept.

    `calibration` returns float32 (n, 3, H, W), normalised; it is called only where something is built. Raises CompilerError
    where the engine is missing or refuses the network.
    """
    if ENGINES[target.engine].takes_onnx and target.precision is Precision.FP32:
        return Built(onnx, {"model.onnx": onnx})
    folder = onnx.with_suffix(f".{target.engine}-{target.precision}")
    if not folder.exists():
        _build(onnx, target, folder, calibration())
    bundle = read_bundle(folder)
    model = str(bundle.manifest["model_file"])
    names = [file.path for file in bundle.files]
    # A single file needs no manifest to be found by.
    wanted = [model] if sorted(names) == sorted([model, MANIFEST]) else names
    return Built(folder / model, {name: folder / name for name in wanted})


def _build(onnx: Path, target: Target, folder: Path, calibration: Floats) -> None:
    with (
        tempfile.TemporaryDirectory(dir=onnx.parent) as scratch,
        closing(backend(target.engine).build(onnx, target, Path(scratch), calibration)) as variants,
    ):
        variant = next(variants, None)
        if variant is None:
            raise BuildFailed(f"{target.engine} made nothing of {onnx.name} in {target.precision}")
        about = {"engine": target.engine, "precision": target.precision, "model_file": variant.model_file}
        write_bundle(folder, about, {name: Path(scratch) / name for name in variant.files})
