"""A subnet as plain JSON, and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milonga_hub.learning.export import export
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.supernet import Supernet, recalibrate

BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "int8": 1}
# Names and shapes in an ONNX file, a layer; int8 adds scales and conversions. Measured on the largest subnets.
_FILE_BYTES_PER_LAYER = {"fp32": 700, "fp16": 700, "int8": 4000}
_FILE_BYTES = 3000


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
