"""What devices that were measured elsewhere would say of every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milonga_hub.learning.latency.structure import Structure, squared_distances

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# More measurements than these sharpen nothing, and cost their cube in time.
_MOST_LEARNED = 900
_LENGTHS = (0.7, 1.5, 3.0, 6.0)
_NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# A trend through costs first, where measurements are too few to see it by themselves.
_TREND_PENALTY = 1e-2
_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
_FENCE = 3.0
_MOST_OUTLIERS = 0.05
_CHUNK = 2000


class Surrogates:
    """Logarithms of latencies (n, devices): as structure explains them everywhere, and what it leaves where measured."""

    def __init__(self, structure: Structure, source_ms: Mapping[str, Floats]) -> None:
        """`source_ms` holds (n,) ms a device, NaN where not measured; at least 3 are."""
        self.names = list(source_ms)
        count = len(structure.choices)
        self.smooth = np.zeros((count, len(self.names)))
        self.rest = np.zeros((count, len(self.names)))
        self._eigen: dict[bytes, list[_Eigen]] = {}
        self._ridges: dict[bytes, _Ridge] = {}
        self._inputs, self._options = structure.choices, structure.options
        self._costs = _cost_design(structure)
        for column, ms in enumerate(source_ms.values()):
            measured = np.flatnonzero(np.isfinite(ms))
            logs = _without_outliers(np.log(ms[measured]))
            self.smooth[:, column] = self._smoothed(measured, logs)
            self.rest[measured, column] = logs - self.smooth[measured, column]

    def _smoothed(self, measured: Indices, logs: Floats) -> Floats:
        """A trend through costs, what each option adds to it, and kernel regression of what remains."""
        smooth = self._through_costs(measured, logs)
        smooth += self._added(measured, logs - smooth[measured])
        return smooth + self._nearby(measured, logs - smooth[measured])

    def _through_costs(self, measured: Indices, logs: Floats) -> Floats:
        design = self._costs[measured]
        penalty = _TREND_PENALTY * np.eye(design.shape[1])
        penalty[0, 0] = 0.0
        return np.asarray(self._costs @ np.linalg.solve(design.T @ design + penalty, design.T @ logs))

    def _added(self, measured: Indices, residual: Floats) -> Floats:
        """Ridge regression on options, or nothing: whichever has the least leave-one-out error in closed form."""
        best, weights = float(np.mean(residual**2)), np.zeros(self._options.shape[1])
        one = self._ridge(measured)
        projected = one.vectors.T @ residual
        for penalty in _PENALTIES if len(weights) else ():
            shrink = 1.0 / (one.values + penalty)
            error = (residual - one.vectors @ (shrink * projected)) / (1.0 - one.vectors**2 @ shrink)
            if (loss := float(np.mean(error**2))) < best:
                best, weights = loss, one.back @ (shrink * projected)
        return np.asarray(self._options @ weights)

    def _nearby(self, measured: Indices, residual: Floats) -> Floats:
        """Kernel ridge regression; width and noise by the leave-one-out error in closed form."""
        if len(measured) > _MOST_LEARNED:
            chosen = np.sort(np.random.default_rng(0).choice(len(measured), _MOST_LEARNED, replace=False))
            measured, residual = measured[chosen], residual[chosen]
        best = float(np.mean(residual**2))
        length, pulled = _LENGTHS[0], np.zeros(len(measured))
        for one in self._decomposed(measured):
            projected = one.vectors.T @ residual
            for noise in _NOISES:
                shrink = 1.0 / (one.values + noise)
                tried = one.vectors @ (shrink * projected)
                error = float(np.mean((tried / (one.vectors**2 @ shrink)) ** 2))
                if error < best:
                    best, length, pulled = error, one.length, tried
        found = np.zeros(len(self._inputs))
        for start in range(0, len(found) if pulled.any() else 0, _CHUNK):
            rows = slice(start, start + _CHUNK)
            distances = squared_distances(self._inputs[rows], self._inputs[measured])
            found[rows] = np.exp(-distances / (2 * length**2)) @ pulled
        return found

    def _ridge(self, measured: Indices) -> _Ridge:
        key = measured.tobytes()
        if key not in self._ridges:
            design = self._options[measured]
            values, back = np.linalg.eigh(design.T @ design)
            self._ridges[key] = _Ridge(np.maximum(values, 0.0), design @ back, back)
        return self._ridges[key]

    def _decomposed(self, measured: Indices) -> list[_Eigen]:
        """Return the kernels' eigenvectors; devices that were measured on the same networks share them."""
        key = measured.tobytes()
        if key not in self._eigen:
            distances = squared_distances(self._inputs[measured], self._inputs[measured])
            self._eigen[key] = []
            for length in _LENGTHS:
                values, vectors = np.linalg.eigh(np.exp(-distances / (2 * length**2)))
                self._eigen[key].append(_Eigen(length, np.maximum(values, 0.0), vectors))
        return self._eigen[key]


def _without_outliers(logs: Floats) -> Floats:
    """Return the logs with those far out (Tukey 1977: 3 interquartile ranges) moved to the fence, where they are few.

    Networks that do nothing take a thousandth of the time of others, and would bend every trend to themselves.
    """
    low, high = np.quantile(logs, (0.25, 0.75))
    fenced = np.clip(logs, low - _FENCE * (high - low), high + _FENCE * (high - low))
    return fenced if np.mean(fenced != logs) <= _MOST_OUTLIERS else logs


@dataclass(frozen=True)
class _Eigen:
    length: float
    values: Floats
    vectors: Floats


@dataclass(frozen=True)
class _Ridge:
    values: Floats
    vectors: Floats
    back: Floats


def _cost_design(structure: Structure) -> Floats:
    costs = np.log(structure.costs)
    return np.asarray(np.c_[np.ones(len(costs)), costs - costs.mean(axis=0)])
