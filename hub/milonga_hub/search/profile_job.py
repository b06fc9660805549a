"""Choose a few subnets to measure on devices. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from milonga_compiler.target import Target

from milonga_hub.jobs import JobContext
from milonga_hub.learning.checkpoint import load_supernet
from milonga_hub.learning.latencies import Features, pool, timed_elsewhere, to_measure
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import exported
from milonga_hub.learning.supernet import Supernet

# An engine's other precisions are like its first, which says most of them: half as many do.
_FEWEST = 5


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return {"subnets": [...]}: those that say most of all others, built for each target that is asked for; {"again": [...]}: those
    that `spec["again"]` names, [{"encoding", "target"}]; and {"costs": path} of what was counted of the space, for later jobs.

    `spec["elsewhere"]` holds what other device types measured before: [{"device_type", "measurements"}].
    """
    torch.set_num_threads(spec.get("threads") or torch.get_num_threads())
    supernet = load_supernet(spec["checkpoint"])
    context.progress(0.0, "choosing subnets to measure")
    features, costs = Features(supernet.space, supernet.classes), workdir / "costs.json"
    targets = [Target.parse(target) for target in spec["targets"]]
    sample = pool(supernet.space, spec["seed"])
    features.costs(sample)
    chosen = _chosen(features, supernet, sample, spec) if targets else []
    features.write(costs)
    first = {target.engine: target for target in reversed(targets)}
    wanted = [
        (encoding, target)
        for target in targets
        for encoding in (chosen if target == first[target.engine] else _spread(chosen))
    ]
    again = [(tuple(one["encoding"]), Target.parse(one["target"])) for one in spec.get("again", ())]
    subnets = []
    for index, (encoding, target) in enumerate([*wanted, *again]):
        context.progress(index / len([*wanted, *again]), f"building subnet {index + 1} of {len(wanted) + len(again)}")
        subnets.append(exported(supernet, encoding, target, workdir / "subnets"))
    return {"subnets": subnets[: len(wanted)], "again": subnets[len(wanted) :], "costs": str(costs)}


def _chosen(features: Features, supernet: Supernet, sample: list[Encoding], spec: Mapping[str, Any]) -> list[Encoding]:
    space = supernet.space
    chosen = to_measure(features, sample, spec["count"], timed_elsewhere(spec), spec["seed"])
    return sorted(chosen, key=lambda one: (space.cost(one, supernet.classes).macs, one))


def _spread(chosen: list[Encoding]) -> list[Encoding]:
    count = min(len(chosen), max(_FEWEST, len(chosen) // 2))
    return [chosen[round(index * (len(chosen) - 1) / max(1, count - 1))] for index in range(count)]
