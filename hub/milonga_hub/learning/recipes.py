"""What a recipe leaves open, chosen for its task, and the optimiser that it names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.spaces import Space
from milonga_hub.learning.supernet import Supernet
from milonga_hub.learning.task import Task

# Chosen by itself: at least so many steps an epoch, and no larger batch.
_FEWEST_STEPS = 20
_BATCHES = (8, 16, 32, 64)


def automatic_batch_size(count: int) -> int:
    """Return the largest usual batch that leaves enough steps in an epoch of so many pictures."""
    return max((size for size in _BATCHES if count // size >= _FEWEST_STEPS), default=_BATCHES[0])


def settled(recipe: Recipe, task: Task, space: Space) -> Recipe:
    """Return the recipe with what it leaves open chosen for the task and for whether networks of the space share weights.

    Raises ValueError for an unknown optimiser, and for batches of one picture.
    """
    if recipe.batch_size == 1:
        raise ValueError("one picture has no batch statistics; take a batch_size of 2 or more, or 0 to have one chosen")
    name = task.optimiser.name if recipe.optimiser == "auto" else recipe.optimiser
    if name not in _OPTIMISERS:
        raise ValueError(f"there is no optimiser {name!r}; take auto, {' or '.join(_OPTIMISERS)}")
    shared = space.smallest() != space.largest()
    return replace(
        recipe,
        optimiser=name,
        learning_rate=recipe.learning_rate or task.optimiser.learning_rate * (task.optimiser.shared if shared else 1.0),
        # The learning rate scales with it: there are no more pictures in a batch than there are.
        batch_size=min(recipe.batch_size or automatic_batch_size(task.count), task.count),
        largest_alone_share=task.largest_alone_share if recipe.largest_alone_share < 0 else recipe.largest_alone_share,
    )


def _plain(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return the optimiser without what keeps torch.compile off it: that imports the compiler, three seconds of processor time.

    torch wraps these methods by functools.wraps. A version that no longer does gives the optimiser as it is.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods = {name: getattr(getattr(kind, name), "__wrapped__", getattr(kind, name)) for name in names}
    step = torch.no_grad()(getattr(kind.step, "__wrapped__", kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step})


def _sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _plain(torch.optim.SGD)(groups, lr=0.0, momentum=0.9, nesterov=True)


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _plain(torch.optim.AdamW)(groups, lr=0.0)


_OPTIMISERS = {"sgd": _sgd, "adamw": _adamw}


def optimiser(supernet: Supernet, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser of a settled recipe for all shared weights; biases and normalisations do not decay."""
    decayed = [weight for weight in supernet.parameters() if weight.dim() > 1]
    plain = [weight for weight in supernet.parameters() if weight.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return _OPTIMISERS[recipe.optimiser](groups)
