"""Tuning spends its budget, keeps what it knows, and never ends with less than it began with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from milonga_hub.learning.checkpoint import Point, Recipe
from milonga_hub.learning.classification import Classification
from milonga_hub.learning.data import load
from milonga_hub.learning.spaces import space
from milonga_hub.learning.spaces.fixed import Fixed
from milonga_hub.learning.train import Trainer
from milonga_hub.learning.tune import tuned

from tests.learning.data import write_arrays

SPACE = space("resnet", 16)


def test_a_hopeless_learning_rate_is_replaced_and_a_restart_goes_on(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    task = Classification(load(write_arrays(tmp_path / "data.npz", count=100)))
    recipe = Recipe("resnet", 16, epochs=2, batch_size=16, learning_rate=1e-4, seed=0)
    said: list[str] = []
    found = tuned(task, SPACE, recipe, tmp_path / "tuning", 3, lambda _, words: said.append(words))
    assert len(said) == 3 and said[0].startswith("trial 1 of 3")
    assert 0.2e-4 <= found.learning_rate <= 5e-4 and found.epochs == recipe.epochs
    again = tuned(task, SPACE, recipe, tmp_path / "tuning", 3, lambda _, words: said.append(words))
    assert again == found and len(said) == 3
    more = tuned(task, SPACE, recipe, tmp_path / "tuning", 4, lambda _, words: said.append(words))
    assert len(said) == 4 and "best so far" in said[-1] and more.epochs == recipe.epochs


def test_a_learning_rate_that_is_left_to_the_task_is_tuned_from_the_task_s_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    task = Classification(load(write_arrays(tmp_path / "data.npz", count=40)))
    recipe = Recipe("resnet", 16, epochs=2, batch_size=8, learning_rate=0, seed=0)

    def killed(*_: object) -> list[Point]:
        raise KeyboardInterrupt

    with monkeypatch.context() as first, pytest.raises(KeyboardInterrupt):
        first.setattr(Trainer, "run", killed)
        tuned(task, Fixed(SPACE, SPACE.smallest()), recipe, tmp_path / "tuning", 1)
    found = tuned(task, Fixed(SPACE, SPACE.smallest()), recipe, tmp_path / "tuning", 1)
    assert found.learning_rate == task.optimiser.learning_rate


def test_a_trial_that_learns_less_than_those_before_it_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Classification(load(write_arrays(tmp_path / "data.npz", count=40)))
    recipe = Recipe("resnet", 16, epochs=20, batch_size=8, learning_rate=0.1, seed=0)
    accuracies, epochs, rates = iter([0.8, 0.9, 0.1]), list[int](), list[float]()

    def learning(self: Trainer, watch: Callable[[float, Point | None, float], None]) -> list[Point]:
        accuracy = next(accuracies)
        rates.append(self._recipe.learning_rate)
        epochs.append(0)
        for epoch in range(1, self._recipe.epochs + 1):
            epochs[-1] = epoch
            watch(1.0, Point(epoch, 1.0, accuracy, accuracy), 0.0)
        return [Point(epochs[-1], 1.0, accuracy, accuracy)]

    monkeypatch.setattr(Trainer, "run", learning)
    found = tuned(task, SPACE, recipe, tmp_path / "tuning", 3)
    assert epochs == [4, 4, 1], "of a fifth of the epochs"
    assert found.learning_rate == rates[1] and found.epochs == 20


def test_no_trials_are_refused(tmp_path: Path) -> None:
    task = Classification(load(write_arrays(tmp_path / "data.npz", count=40)))
    with pytest.raises(ValueError, match="at least 1"):
        tuned(task, SPACE, Recipe("resnet", 16, 1, 16, 0.1, 0), tmp_path / "tuning", 0)
