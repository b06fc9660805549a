"""Predict the accuracy of any subnet from some that were really evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from milonga_hub.learning.ranks import kendall
from milonga_hub.learning.spaces import Encoding, Space

Floats = NDArray[np.float64]

# Variances of the trend through choices and log MACs, of what it leaves, and of evaluation noise; widths of the rest.
_TRENDS = (0.1, 1.0)
_RESTS = (0.0, 0.1, 0.3)
_NOISES = (0.03, 0.1, 0.3, 1.0)
_LENGTHS = (1.0, 2.0)
# Weight of log MACs beside all choices together: what subnets of like choices differ by most.
_SIZE_WEIGHT = 2.0


@dataclass(frozen=True)
class _Fit:
    trend: float
    rest: float
    length: float
    noise: float

    def kernel(self, left: Floats, right: Floats) -> Floats:
        products = left @ right.T
        distance = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * products
        return np.asarray(self.trend * products + self.rest * np.exp(-np.maximum(distance, 0) / (2 * self.length**2)))


class AccuracyModel:
    """A Gaussian process about a linear trend; its weights by the leave-one-out density (Rasmussen & Williams 2006, 5.4.2)."""

    def __init__(self, space: Space, classes: int, encodings: Sequence[Encoding], accuracies: Sequence[float]) -> None:
        """`accuracies` (n,), 0 to 1, of `encodings`; n is at least 3, else ValueError."""
        if len(accuracies) < 3 or len(encodings) != len(accuracies):
            raise ValueError(
                f"{len(accuracies)} evaluated subnets are too few to predict others; at least 3 are needed"
            )
        self._space, self._classes = space, classes
        target = np.asarray(accuracies, dtype=np.float64)
        self._mean, self._scale = float(target.mean()), max(float(target.std()), 1e-4)
        self._known = self._design(encodings)
        wanted = (target - self._mean) / self._scale
        fits = [_Fit(*one) for one in product(_TRENDS, _RESTS, _LENGTHS, _NOISES)]
        scored = [(self._left_out(fit, wanted), fit) for fit in fits]
        (_, self._held_out), self._fit = max(scored, key=lambda one: one[0][0])
        self._inverse = np.linalg.inv(
            self._fit.kernel(self._known, self._known) + self._fit.noise * np.eye(len(wanted))
        )
        self._pulled = self._inverse @ wanted
        #: Rank correlation of evaluated accuracies with their predictions from all others.
        self.kendall_tau = kendall(self._held_out, wanted)

    def _left_out(self, fit: _Fit, wanted: Floats) -> tuple[float, Floats]:
        """Return the log density of each accuracy as the others predict it, summed, and these predictions."""
        inverse = np.linalg.inv(fit.kernel(self._known, self._known) + fit.noise * np.eye(len(wanted)))
        variance = 1.0 / np.diag(inverse)
        error = (inverse @ wanted) * variance
        return float(-0.5 * np.sum(np.log(variance) + error**2 / variance)), wanted - error

    def predict(self, encodings: Sequence[Encoding]) -> tuple[Floats, Floats]:
        """Return accuracies (n,), within 0 to 1, and their standard deviations (n,), evaluation noise apart."""
        design = self._design(encodings)
        across = self._fit.kernel(design, self._known)
        own = self._fit.trend * (design**2).sum(axis=1) + self._fit.rest
        variance = np.maximum(own - np.einsum("nk,nk->n", across @ self._inverse, across), 0.0)
        mean = np.clip(across @ self._pulled * self._scale + self._mean, 0.0, 1.0)
        return np.asarray(mean), np.asarray(np.sqrt(variance) * self._scale)

    def _design(self, encodings: Sequence[Encoding]) -> Floats:
        """Return (n, f) of mean squared length 1 or so: choices as shares of the largest, one-hot, and log MACs."""
        sizes = np.maximum(1, np.array(self._space.sizes) - 1)
        ordered = np.array(encodings, dtype=np.float64) / sizes - 0.5
        macs = np.array([self._space.cost(one, self._classes).macs for one in encodings], dtype=np.float64)
        low, high = (
            self._space.cost(one, self._classes).macs for one in (self._space.smallest(), self._space.largest())
        )
        size = 2.0 * np.log(macs / low) / np.log(high / low) - 1.0
        choices = self._space.one_hot(encodings)
        return np.asarray(np.c_[ordered * 2 / len(sizes) ** 0.5, choices / len(sizes) ** 0.5, _SIZE_WEIGHT * size])
