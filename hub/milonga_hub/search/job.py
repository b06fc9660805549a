"""Search the best subnets for each device type. Runs as a job: see milonga_hub/jobs.py for how.

Accuracies that were evaluated are kept as they come, so a restarted job evaluates none of them again.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from milonga_compiler.files import write_atomically

from milonga_hub.jobs import JobContext, JobError
from milonga_hub.learning.accuracies import Accuracies
from milonga_hub.learning.checkpoint import load_supernet
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.latencies import Features
from milonga_hub.learning.tasks import opened
from milonga_hub.learning.type_search import TypeSearch

# Share of the evaluations that go to a random sample; the rest goes where the fronts are uncertain.
_RANDOM_SHARE = 0.6
_FEWEST_RANDOM = 6


def run(spec: dict[str, Any], workdir: Path, context: JobContext) -> dict[str, Any]:
    """Return per device type the front, the candidates to verify on the device, and how good the predictions are."""
    torch.set_num_threads(spec["threads"] or torch.get_num_threads())
    supernet = load_supernet(spec["checkpoint"])
    task = opened(spec["data"], supernet.space.resolution_px)
    evaluated = Evaluated(supernet, task, workdir, write_atomically)
    budget = spec["evaluated_subnets"]
    sampled = min(budget, max(_FEWEST_RANDOM, round(_RANDOM_SHARE * budget)))
    _evaluate_sample(evaluated, sampled, spec["seed"], context)
    features, types = Features.read(supernet.space, supernet.classes, Path(spec["costs"])), {}
    accuracies = Accuracies(evaluated)
    searches = [_search(spec, wanted, evaluated, accuracies, features) for wanted in spec["types"]]
    for index, one in enumerate(searches):
        name = spec["types"][index]["name"]
        share = (budget - sampled) * (index + 1) // len(searches) - (budget - sampled) * index // len(searches)

        def tell(spent: int, index: int = index, share: int = share, name: str = name) -> None:
            done = (index + spent / max(1, share)) / len(searches)
            context.progress(0.3 + 0.4 * done, f"evaluating the front of {name}: {spent} of {share}")

        context.progress(0.3 + 0.4 * index / len(searches), f"searching for {name}")
        one.refine(share, tell)
    # Only now, when all that was evaluated for any type is known to each.
    for index, one in enumerate(searches):
        name = spec["types"][index]["name"]
        context.progress(0.7 + 0.3 * index / len(searches), f"choosing candidates for {name}")
        types[name] = one.result()
    predictor = {"kendall_tau": accuracies.model.kendall_tau, "held_out_count": evaluated.count()}
    return {"accuracy_predictor": predictor, "types": types}


def _search(
    spec: dict[str, Any], wanted: dict[str, Any], evaluated: Evaluated, accuracies: Accuracies, features: Features
) -> TypeSearch:
    try:
        return TypeSearch(spec, wanted, evaluated, accuracies, features)
    except ValueError as error:
        raise JobError(f"{wanted['name']}: {error}") from error


def _evaluate_sample(evaluated: Evaluated, count: int, seed: int, context: JobContext) -> None:
    space, source = evaluated.supernet.space, random.Random(seed)
    chosen = dict.fromkeys([space.smallest(), space.largest()])
    # Small spaces may not have as many different subnets.
    for _ in range(100 * count):
        if len(chosen) >= count:
            break
        chosen.setdefault(space.sample(source))
    for index, encoding in enumerate(chosen):
        context.progress(0.3 * index / len(chosen), f"evaluating subnet {index + 1} of {len(chosen)}")
        evaluated.accuracy(encoding)
