"""Choose a few subnets to measure on devices. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from milonga_hub.jobs import JobContext
from milonga_hub.learning.spaces import Encoding, Space
from milonga_hub.learning.subnets import described, written
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.train import load_supernet

# Drawn to choose from; more do not spread further.
_POOL = 400


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return {"subnets": [...]}: the smallest, the largest, and others evenly between them, exported as ONNX."""
    supernet = load_supernet(spec["checkpoint"])
    # Latency does not depend on the weights, so any picture will do for batch statistics.
    noise = [
        torch.randn(8, 3, spec["resolution_px"], spec["resolution_px"], generator=torch.Generator().manual_seed(0))
    ]
    subnets = []
    for index, encoding in enumerate(spread(supernet, spec["count"], spec["seed"])):
        context.progress(index / spec["count"], f"exporting subnet {index + 1} of {spec['count']}")
        path = written(supernet, encoding, noise, workdir / "subnets")
        subnets.append({**described(supernet, encoding), "onnx": str(path)})
    return {"subnets": subnets}


def spread(supernet: Supernet, count: int, seed: int) -> list[Encoding]:
    """Return `count` subnets at even steps of MACs (on a log scale), both ends among them.

    With no measurements of other devices to learn from, even steps of a latency proxy beat random choices.
    """
    space = supernet.space
    source = random.Random(seed)
    pool = {space.sample(source) for _ in range(_POOL)} | {space.smallest(), space.largest()}
    ordered = sorted(pool, key=lambda encoding: (_macs(supernet, space, encoding), encoding))
    low, high = _macs(supernet, space, ordered[0]), _macs(supernet, space, ordered[-1])
    chosen: list[Encoding] = []
    for index in range(count):
        wanted = low * (high / low) ** (index / max(1, count - 1))
        left = [encoding for encoding in ordered if encoding not in chosen]
        chosen.append(min(left, key=lambda encoding: abs(_macs(supernet, space, encoding) / wanted - 1)))
    return chosen


def _macs(supernet: Supernet, space: Space, encoding: Encoding) -> int:
    return space.cost(encoding, supernet.resolution_px, supernet.classes).macs
