"""What a recipe leaves open is chosen for its task, and what cannot be trained by is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from milonga_hub.learning.checkpoint import Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.recipes import automatic_batch_size, settled
from milonga_hub.learning.spaces import space
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.task import Optimiser

from tests.learning.data import write_arrays

SPACE = space("resnet", 16)
RECIPE = Recipe("resnet", 16, epochs=3, batch_size=16, learning_rate=0.2, seed=0, precision="fp32")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Classification:
    return Classification(load(write_arrays(tmp_path_factory.mktemp("data") / "data.npz", count=160)))


def test_what_a_recipe_leaves_open_is_chosen_for_the_task(task: Classification) -> None:
    chosen = settled(replace(RECIPE, batch_size=0, learning_rate=0), task, SPACE)
    assert (chosen.optimiser, chosen.learning_rate) == (task.optimiser.name, task.optimiser.learning_rate)
    assert chosen.batch_size == automatic_batch_size(task.count)
    assert chosen.largest_alone_share == task.largest_alone_share
    complete = replace(RECIPE, optimiser="adamw", largest_alone_share=0.5)
    assert settled(complete, task, SPACE) == complete
    assert settled(replace(RECIPE, batch_size=1000), task, SPACE).batch_size == task.count
    with pytest.raises(ValueError, match="batch_size of 2 or more"):
        settled(replace(RECIPE, batch_size=1), task, SPACE)


def test_a_task_may_want_another_learning_rate_where_subnets_share_weights(
    task: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "optimiser", Optimiser("adamw", 0.01, shared=2.0))
    open_recipe = replace(RECIPE, learning_rate=0)
    assert settled(open_recipe, task, SPACE).learning_rate == 0.02
    assert settled(open_recipe, task, Fixed(SPACE, SPACE.smallest())).learning_rate == 0.01
    assert settled(RECIPE, task, SPACE).learning_rate == RECIPE.learning_rate


def test_small_data_sets_get_small_batches() -> None:
    assert [automatic_batch_size(count) for count in (20, 400, 2000, 100_000)] == [8, 16, 64, 64]
