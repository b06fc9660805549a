"""Make the fixed networks of a family, to be measured before any is trained. Runs as a job: see milonga_hub/jobs.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from milonga_compiler.target import Target

from milonga_hub.jobs import JobContext
from milonga_hub.learning.drawing import drawing
from milonga_hub.learning.spaces import space
from milonga_hub.learning.spaces.fixed import Fixed, levels
from milonga_hub.learning.subnets import exported
from milonga_hub.learning.supernet import Supernet


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return {"subnets": [...]}: each level for each target, the simplest first, with what `spaces.rebuilt` makes it from.

    Their weights are random: latency does not depend on them.
    """
    torch.set_num_threads(spec.get("threads") or torch.get_num_threads())
    family = space(spec["space"], spec["resolution_px"])
    found, chosen = list[dict[str, Any]](), levels(family)
    for level, encoding in enumerate(chosen):
        context.progress(level / len(chosen), f"exporting level {level + 1} of {len(chosen)}")
        torch.manual_seed(spec["seed"])
        alone = Supernet(Fixed(family, encoding), spec["classes"])
        about = {
            "level": level + 1,
            "encoding": list(encoding),
            "settings": alone.space.settings,
            "drawing": drawing(family, encoding),
        }
        found += [
            {**exported(alone, alone.space.largest(), Target.parse(target), workdir / "subnets"), **about}
            for target in spec["targets"]
        ]
    return {"subnets": found}
