"""A subnet as plain JSON, and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milonga_hub.learning.export import export
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.supernet import Supernet, recalibrate

BYTES_PER_WEIGHT = {"fp32": 4, "int8": 1}
# Names and shapes of an ONNX file, measured on the largest subnet.
_FILE_OVERHEAD_BYTES = 12_000


def described(supernet: Supernet, encoding: Encoding, precision: str = "fp32") -> dict[str, Any]:
    """Return digest, encoding, description and costs of a subnet."""
    space = supernet.space
    cost = space.cost(encoding, supernet.resolution_px, supernet.classes)
    return {
        "subnet": space.digest(encoding, supernet.resolution_px),
        "encoding": list(encoding),
        "description": space.describe(encoding),
        "macs": cost.macs,
        "params": cost.params,
        "model_bytes": cost.params * BYTES_PER_WEIGHT[precision] + _FILE_OVERHEAD_BYTES,
        # Weights and the activations that are alive at once, in float32.
        "memory_bytes": 4 * (cost.params + cost.peak_activations),
    }


def written(supernet: Supernet, encoding: Encoding, batches: Sequence[Any], folder: Path) -> Path:
    """Write the subnet as ONNX, named by its digest, and return the path; a file that is there is kept."""
    name = supernet.space.digest(encoding, supernet.resolution_px).removeprefix("sha256:")[:16]
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.part"
        export(recalibrate(supernet.extract(encoding), batches), supernet.resolution_px, temporary)
        temporary.replace(path)
    return path
