"""Choose hyper-parameters before the long training: Optuna's TPE, with trials that do badly cut short."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from milonga_hub.learning.checkpoint import Point, Recipe
from milonga_hub.learning.recipes import settled
from milonga_hub.learning.spaces import Space
from milonga_hub.learning.task import Task
from milonga_hub.learning.train import Trainer, TrainingDiverged

# A trial trains for this share of the epochs, at least two: enough to see which one learns.
_SHARE_OF_EPOCHS = 0.2
# Rates about the recipe's own, and decays that vision recipes use.
_RATES = (0.2, 5.0)
_DECAYS = (1e-5, 1e-3)

Tell = Callable[[float, str], None]


class OptunaMissing(ImportError):
    """Optuna is not installed; the message says how to add it."""


def tuned(
    task: Task,
    space: Space,
    recipe: Recipe,
    folder: Path,
    trials: int,
    tell: Tell = lambda *_: None,
    seconds: float = 0.0,
) -> Recipe:
    """Return the recipe with the learning rate, weight decay and warm-up under which most was learned.

    The budget is `trials`, and `seconds` where above 0: none is started after that. The recipe's own values are the first
    trial, so nothing worse by this measure, the mean accuracy of the largest and smallest subnet, is returned. Trials are
    kept in the folder: a restart goes on after the last that ended. Raises OptunaMissing, and ValueError where `trials`
    is below 1 or every trial diverged.
    """
    if trials < 1:
        raise ValueError(f"tuning needs at least 1 trial, not {trials}")
    optuna = _optuna()
    recipe = settled(recipe, task, space)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="recipe",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=recipe.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "trials.log"))),
        load_if_exists=True,
    )
    states = optuna.trial.TrialState
    # One that was killed in its middle counts for nothing, the recipe's own least of all.
    if not any(one.state.is_finished() or one.state is states.WAITING for one in study.trials):
        study.enqueue_trial(
            {"rate": recipe.learning_rate, "decay": recipe.weight_decay, "warm_up": recipe.warm_up_share}
        )
    started = time.monotonic()
    while (done := _ended(study)) < trials and not 0 < seconds < time.monotonic() - started:
        tell(done / trials, f"trial {done + 1} of {trials}{_best(study)}")
        trial = study.ask()
        state, value = _tried(optuna, trial, task, space, recipe, folder / f"trial-{trial.number}.pt")
        study.tell(trial, value, state=state)
    if not any(one.value is not None for one in study.trials):
        raise ValueError("every trial diverged; lower the learning rate, and look for broken pictures in the data set")
    return _with(recipe, study.best_params)


def _tried(optuna, trial, task: Task, space: Space, recipe: Recipe, path: Path):  # type: ignore[no-untyped-def]
    """Return how a trial ended and its accuracy, None where it diverged."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    chosen = {
        "rate": trial.suggest_float("rate", rate * _RATES[0], rate * _RATES[1], log=True),
        "decay": trial.suggest_float("decay", min(decay, _DECAYS[0]), max(decay, _DECAYS[1]), log=True),
        "warm_up": trial.suggest_float("warm_up", 0.02, max(0.2, recipe.warm_up_share)),
    }
    short = replace(_with(recipe, chosen), epochs=max(2, round(_SHARE_OF_EPOCHS * recipe.epochs)))

    reported: set[int] = set()

    def watch(_: float, point: Point | None, __: float) -> None:
        if point is not None and point.epoch not in reported:
            reported.add(point.epoch)
            trial.report(_learned(point), point.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    path.unlink(missing_ok=True)
    states = optuna.trial.TrialState
    try:
        return states.COMPLETE, _learned(Trainer(task, space, short, path).run(watch)[-1])
    except optuna.TrialPruned:
        return states.PRUNED, None
    except TrainingDiverged:
        return states.FAIL, None
    finally:
        path.unlink(missing_ok=True)


def _learned(point: Point) -> float:
    return (point.accuracy_largest + point.accuracy_smallest) / 2


def _with(recipe: Recipe, chosen: dict[str, float]) -> Recipe:
    return replace(recipe, learning_rate=chosen["rate"], weight_decay=chosen["decay"], warm_up_share=chosen["warm_up"])


def _ended(study) -> int:  # type: ignore[no-untyped-def]
    return sum(one.state.is_finished() for one in study.trials)


def _best(study) -> str:  # type: ignore[no-untyped-def]
    known = [one.value for one in study.trials if one.value is not None]
    return f", best so far {max(known):.1%}" if known else ""


def _optuna():  # type: ignore[no-untyped-def]
    try:
        import optuna
    except ImportError as error:
        raise OptunaMissing("tuning needs Optuna; install it with: pip install 'milonga-hub[optuna]'") from error
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna
