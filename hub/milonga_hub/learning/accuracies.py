"""Accuracy of any subnet of a space in each precision, learned from those that were evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from milonga_hub.learning.accuracy import AccuracyModel
from milonga_hub.learning.evaluation import Evaluated
from milonga_hub.learning.spaces import Encoding


class Accuracies:
    """Predicted accuracy in each precision, learned from what was evaluated so far."""

    def __init__(self, evaluated: Evaluated) -> None:
        self._evaluated = evaluated
        self.learn()

    def learn(self) -> None:
        """Fit anew on all that was evaluated."""
        supernet, known = self._evaluated.supernet, self._evaluated.all()
        self.model = AccuracyModel(supernet.space, supernet.classes, list(known), list(known.values()))
        lost = [known[one] - value for one, value in self._evaluated.all("int8").items() if one in known]
        self._lost = float(np.mean(lost)) if lost else 0.0

    def predict(self, encodings: Sequence[Encoding], precisions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return accuracies (n,) and standard deviations (n,).

        Evaluated ones are predicted, too: on few validation pictures a lucky subnet would seem to beat all that were not
        evaluated, and be a front by itself.
        """
        mean, deviation = self.model.predict(encodings)
        lost = np.array([self._lost if precision == "int8" else 0.0 for precision in precisions])
        return np.clip(mean - lost, 0.0, 1.0), deviation
