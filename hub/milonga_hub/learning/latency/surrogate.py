"""What devices that were measured elsewhere would say of every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milonga_hub.learning.latency.structure import Structure, squared_distances

Floats = NDArray[np.float64]

# More measurements than these sharpen nothing, and cost their cube in time.
_MOST_LEARNED = 900
_LENGTHS = (0.7, 1.5, 3.0, 6.0)
_NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# A trend through costs first, where measurements are too few to see it by themselves.
_TREND_PENALTY = 1e-2
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
        self._inputs = _inputs(structure)
        self._trend = _trend(structure)
        for column, ms in enumerate(source_ms.values()):
            measured = np.flatnonzero(np.isfinite(ms))
            logs = np.log(ms[measured])
            self.smooth[:, column] = self._smoothed(measured, logs)
            self.rest[measured, column] = logs - self.smooth[measured, column]

    def _smoothed(self, measured: NDArray[np.int64], logs: Floats) -> Floats:
        """Kernel ridge regression about the trend; width and noise by the leave-one-out error in closed form."""
        if len(measured) > _MOST_LEARNED:
            chosen = np.sort(np.random.default_rng(0).choice(len(measured), _MOST_LEARNED, replace=False))
            measured, logs = measured[chosen], logs[chosen]
        design = self._trend[measured]
        penalty = _TREND_PENALTY * np.eye(design.shape[1])
        penalty[0, 0] = 0.0
        weights = np.linalg.solve(design.T @ design + penalty, design.T @ logs)
        residual = logs - design @ weights
        best: tuple[float, float, Floats] | None = None
        for one in self._decomposed(measured):
            projected = one.vectors.T @ residual
            for noise in _NOISES:
                shrink = 1.0 / (one.values + noise)
                pulled = one.vectors @ (shrink * projected)
                error = float(np.mean((pulled / (one.vectors**2 @ shrink)) ** 2))
                if best is None or error < best[0]:
                    best = error, one.length, pulled
        assert best is not None
        _, length, pulled = best
        smooth = self._trend @ weights
        for start in range(0, len(smooth), _CHUNK):
            rows = slice(start, start + _CHUNK)
            distances = squared_distances(self._inputs[rows], self._inputs[measured])
            smooth[rows] += np.exp(-distances / (2 * length**2)) @ pulled
        return np.asarray(smooth)

    def _decomposed(self, measured: NDArray[np.int64]) -> list[_Eigen]:
        """Return the kernels' eigenvectors; devices that were measured on the same networks share them."""
        key = measured.tobytes()
        if key not in self._eigen:
            distances = squared_distances(self._inputs[measured], self._inputs[measured])
            self._eigen[key] = []
            for length in _LENGTHS:
                values, vectors = np.linalg.eigh(np.exp(-distances / (2 * length**2)))
                self._eigen[key].append(_Eigen(length, np.maximum(values, 0.0), vectors))
        return self._eigen[key]


@dataclass(frozen=True)
class _Eigen:
    length: float
    values: Floats
    vectors: Floats


def _inputs(structure: Structure) -> Floats:
    return structure.choices


def _trend(structure: Structure) -> Floats:
    costs = np.log(structure.costs)
    return np.asarray(np.c_[np.ones(len(costs)), costs - costs.mean(axis=0)])
