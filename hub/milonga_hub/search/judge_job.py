"""Judge latency models, and choose what to measure where one is not to be trusted. Runs as a job: see milonga_hub/jobs.py.

The spec has per type {"name", "engine", "measurements", "elsewhere", "left"}: measurements as {"subnet", "encoding", "precision",
"median_ms"}, None where the device failed, and how many more may be asked of a device of the type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from milonga_compiler.engines import Precision
from milonga_compiler.target import Target

from milonga_hub.jobs import JobContext, JobError
from milonga_hub.learning.checkpoint import load_supernet
from milonga_hub.learning.latencies import Features, TypeLatency, pool, timed, timed_elsewhere
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import exported


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return per type how good its model is in each precision, and which subnets to measure next, exported as ONNX."""
    torch.set_num_threads(spec.get("threads") or torch.get_num_threads())
    supernet = load_supernet(spec["checkpoint"])
    features = Features.read(supernet.space, supernet.classes, Path(spec["costs"]))
    types: dict[str, Any] = {}
    for index, wanted in enumerate(spec["types"]):
        context.progress(index / len(spec["types"]), f"judging the latency model of {wanted['name']}")
        model = _fitted(features, wanted, pool(supernet.space, spec["seed"]))
        types[wanted["name"]] = {
            "precisions": {precision: asdict(model.quality(precision)) for precision in model.precisions},
            "subnets": [
                exported(supernet, encoding, Target(wanted["engine"], Precision(precision)), workdir / "subnets")
                for encoding, precision in _further(model, wanted)
            ],
        }
    return {"types": types}


def _fitted(features: Features, wanted: Mapping[str, Any], sample: list[Encoding]) -> TypeLatency:
    good = [one for one in wanted["measurements"] if one["median_ms"] is not None]
    try:
        return TypeLatency(features, sample, timed(good), timed_elsewhere(wanted))
    except ValueError as error:
        raise JobError(f"{wanted['name']}: {error}") from error


def _further(model: TypeLatency, wanted: Mapping[str, Any]) -> list[tuple[Encoding, str]]:
    """Return what to measure next, worst precision first; nothing where all are trusted or nothing is left."""
    found: list[tuple[Encoding, str]] = []
    for precision in sorted(model.precisions, key=lambda one: -model.quality(one).held_out_relative_error):
        count = min(model.quality(precision).further, wanted["left"] - len(found))
        tried = {tuple(one["encoding"]) for one in wanted["measurements"] if one["precision"] == precision}
        if count > 0:
            found += [(encoding, precision) for encoding in model.further(precision, count, tried)]
    return found
