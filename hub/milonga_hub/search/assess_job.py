"""Evaluate a network that was trained alone. Runs as a job: see milonga_hub/jobs.py for how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from milonga_compiler.files import write_atomically
from milonga_compiler.target import Target

from milonga_hub.jobs import JobContext
from milonga_hub.learning.checkpoint import load_supernet
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.tasks import opened


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return by target the accuracy of the checkpoint's only network, and what its builds are made from."""
    torch.set_num_threads(spec["threads"] or torch.get_num_threads())
    supernet = load_supernet(spec["checkpoint"])
    task = opened(spec["data"], supernet.space.resolution_px)
    evaluated = Evaluated(supernet, task, workdir, write_atomically)
    only, found = evaluated.supernet.space.largest(), {}
    for index, name in enumerate(spec["targets"]):
        context.progress(index / len(spec["targets"]), f"evaluating it for {name}")
        target = Target.parse(name)
        accuracy = evaluated.accuracy(only, target)
        found[name] = {**evaluated.exported(only, target), "accuracy": accuracy}
    return {"targets": found}
