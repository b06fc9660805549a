"""Accuracy of any subnet of a space in each precision, learned from those that were evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from milonga_compiler.target import Target

from milonga_hub.learning.accuracy import AccuracyModel
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.spaces import Encoding


class Accuracies:
    """Predicted accuracy for each target, learned from what was evaluated so far."""

    def __init__(self, evaluated: Evaluated) -> None:
        self._evaluated = evaluated
        self.learn()

    def learn(self) -> None:
        """Fit anew on all that was evaluated."""
        supernet, known = self._evaluated.supernet, self._evaluated.all()
        self.model = AccuracyModel(supernet.space, supernet.classes, list(known), list(known.values()))

    def lost(self, target: Target) -> float:
        """Return what the target's precision costs in accuracy, by those evaluated in both."""
        plain = self._evaluated.all()
        lost = [plain[one] - value for one, value in self._evaluated.all(target).items() if one in plain]
        return float(np.mean(lost)) if lost else 0.0

    def predict(self, encodings: Sequence[Encoding], targets: Sequence[Target]) -> tuple[np.ndarray, np.ndarray]:
        """Return accuracies (n,) and standard deviations (n,).

        Evaluated ones are predicted, too: on few validation pictures a lucky subnet would seem to beat all that were not
        evaluated, and be a front by itself.
        """
        mean, deviation = self.model.predict(encodings)
        costs = {target: self.lost(target) for target in set(targets)}
        return np.clip(mean - np.array([costs[target] for target in targets]), 0.0, 1.0), deviation
