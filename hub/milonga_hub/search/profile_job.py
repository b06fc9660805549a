"""Choose a few subnets to measure on devices. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from milonga_hub.jobs import JobContext
from milonga_hub.learning.checkpoint import load_supernet
from milonga_hub.learning.evaluation import quantized
from milonga_hub.learning.latencies import Features, pool, timed_elsewhere, to_measure
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import described, written
from milonga_hub.learning.supernet import Supernet

# Latency does not depend on the weights, so any picture will do for batch statistics and ranges of activations.
_NOISE_PICTURES = 16
# The other precisions are like the first, which says most of them: half as many do.
_FEWEST = 5


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return {"subnets": [...]}: those that say most of all others, exported as ONNX in each precision that is asked for.

    `spec["elsewhere"]` holds what other device types measured before: [{"device_type", "measurements"}].
    """
    torch.set_num_threads(spec.get("threads") or torch.get_num_threads())
    supernet = load_supernet(spec["checkpoint"])
    context.progress(0.0, "choosing subnets to measure")
    chosen = _chosen(supernet, spec)
    precisions = spec.get("precisions") or ["fp32"]
    wanted = [
        (encoding, precision)
        for number, precision in enumerate(precisions)
        for encoding in (chosen if number == 0 else _spread(chosen))
    ]
    subnets = []
    for index, (encoding, precision) in enumerate(wanted):
        context.progress(index / len(wanted), f"exporting subnet {index + 1} of {len(wanted)}")
        path = _written(supernet, encoding, precision, workdir / "subnets")
        subnets.append({**described(supernet, encoding, precision), "onnx": str(path)})
    return {"subnets": subnets}


def _chosen(supernet: Supernet, spec: Mapping[str, Any]) -> list[Encoding]:
    space, features = supernet.space, Features(supernet.space, supernet.classes)
    chosen = to_measure(features, pool(space, spec["seed"]), spec["count"], timed_elsewhere(spec), spec["seed"])
    return sorted(chosen, key=lambda one: (space.cost(one, supernet.classes).macs, one))


def _spread(chosen: list[Encoding]) -> list[Encoding]:
    count = min(len(chosen), max(_FEWEST, len(chosen) // 2))
    return [chosen[round(index * (len(chosen) - 1) / max(1, count - 1))] for index in range(count)]


def _written(supernet: Supernet, encoding: Encoding, precision: str, folder: Path) -> Path:
    size = supernet.space.resolution(encoding)
    noise = torch.randn(_NOISE_PICTURES, 3, size, size, generator=torch.Generator().manual_seed(0))
    path = written(supernet, encoding, [noise], folder)
    return quantized(path, noise.numpy()) if precision == "int8" else path
