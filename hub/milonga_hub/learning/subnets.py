"""A subnet as plain JSON, and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from milonga_compiler.engines import Precision
from milonga_compiler.target import Target

from milonga_hub.learning.built import built
from milonga_hub.learning.drawing import said
from milonga_hub.learning.export import export
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.supernet import Supernet, recalibrate

BYTES_PER_WEIGHT = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 1}
# Names and shapes in an ONNX file, a layer; int8 adds scales and conversions. Measured on the largest subnets.
_FILE_BYTES_PER_LAYER = {Precision.FP32: 700, Precision.FP16: 800, Precision.INT8: 4000}
_FILE_BYTES = 3000
# Latency does not depend on the weights, so any picture will do for batch statistics and ranges of activations.
_NOISE_PICTURES = 16


def described(supernet: Supernet, encoding: Encoding, precision: Precision = Precision.FP32) -> dict[str, Any]:
    """Return digest, encoding, description, choices by dimension and costs of a subnet."""
    space = supernet.space
    cost = space.cost(encoding, supernet.classes)
    return {
        "subnet": space.digest(encoding),
        "encoding": list(encoding),
        "precision": precision,
        "description": space.describe(encoding),
        "choices": {name: said(value) for name, value in space.effective(encoding).items()},
        "resolution_px": space.resolution(encoding),
        "macs": cost.macs,
        "params": cost.params,
        "model_bytes": cost.params * BYTES_PER_WEIGHT[precision]
        + cost.layers * _FILE_BYTES_PER_LAYER[precision]
        + _FILE_BYTES,
        # Weights and the activations that are alive at once: what is counted, until a device has told what subnets take.
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
        network = recalibrate(supernet.extract(encoding), batches, resolution)
        export(space.deployed(network), resolution, temporary, space.output)
        temporary.replace(path)
    return path


def exported(supernet: Supernet, encoding: Encoding, target: Target, folder: Path) -> dict[str, Any]:
    """Return the subnet as plain JSON with its "files" to measure, by name; what is there is kept."""
    size = supernet.space.resolution(encoding)
    noise = torch.randn(_NOISE_PICTURES, 3, size, size, generator=torch.Generator().manual_seed(0))
    files = built(written(supernet, encoding, [noise], folder), target, noise.numpy).files
    return {
        **described(supernet, encoding, target.precision),
        "engine": target.engine,
        "files": {name: str(path) for name, path in files.items()},
    }
