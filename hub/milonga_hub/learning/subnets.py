"""A subnet as plain JSON, and as a file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from milonga_compiler.quantize import quantize_variants
from numpy.typing import NDArray

from milonga_hub.learning.export import export
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.supernet import Supernet, recalibrate

BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "int8": 1}
# Names and shapes in an ONNX file, a layer; int8 adds scales and conversions. Measured on the largest subnets.
_FILE_BYTES_PER_LAYER = {"fp32": 700, "fp16": 800, "int8": 4000}
_FILE_BYTES = 3000
# Latency does not depend on the weights, so any picture will do for batch statistics and ranges of activations.
_NOISE_PICTURES = 16


def described(supernet: Supernet, encoding: Encoding, precision: str = "fp32") -> dict[str, Any]:
    """Return digest, encoding, description and costs of a subnet."""
    space = supernet.space
    cost = space.cost(encoding, supernet.classes)
    return {
        "subnet": space.digest(encoding),
        "encoding": list(encoding),
        "precision": precision,
        "description": space.describe(encoding),
        "resolution_px": space.resolution(encoding),
        "macs": cost.macs,
        "params": cost.params,
        "model_bytes": cost.params * BYTES_PER_WEIGHT[precision]
        + cost.layers * _FILE_BYTES_PER_LAYER[precision]
        + _FILE_BYTES,
        # Weights and the activations that are alive at once.
        "memory_bytes": BYTES_PER_WEIGHT[precision] * (cost.params + cost.peak_activations),
    }


def written(supernet: Supernet, encoding: Encoding, batches: Sequence[Any], folder: Path) -> Path:
    """Write the subnet as ONNX, named by its digest, and return the path; a file that is there is kept."""
    space = supernet.space
    name = space.digest(encoding).removeprefix("sha256:")[:16]
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.part"
        resolution = space.resolution(encoding)
        export(recalibrate(supernet.extract(encoding), batches, resolution), resolution, temporary)
        temporary.replace(path)
    return path


def quantized(path: Path, calibration: NDArray[np.float32]) -> Path:
    """Write an ONNX file's int8 form beside it, as builds try it first, and return its path; a file that is there is kept.

    `calibration` is float32 (n, 3, H, W), normalised.
    """
    found = path.with_suffix(".int8.onnx")
    if not found.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            variant = next(iter(quantize_variants(path, Path(folder), calibration)))
            (Path(folder) / variant.model_file).replace(found)
    return found


def exported(supernet: Supernet, encoding: Encoding, precision: str, folder: Path) -> dict[str, Any]:
    """Return the subnet as plain JSON with its file to measure; a file that is there is kept."""
    size = supernet.space.resolution(encoding)
    noise = torch.randn(_NOISE_PICTURES, 3, size, size, generator=torch.Generator().manual_seed(0))
    path = written(supernet, encoding, [noise], folder)
    if precision == "int8":
        path = quantized(path, noise.numpy())
    return {**described(supernet, encoding, precision), "onnx": str(path)}
