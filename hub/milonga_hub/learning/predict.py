"""Predict what is too dear to measure for every subnet: latency on a device type, and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from scipy.stats import t as student

from milonga_hub.learning.spaces import Encoding, Space

Floats = NDArray[np.float64]

# Intervals hold this share of subnets.
_CONFIDENCE = 0.9
# A penalty on standardised features; larger ones were no better on held-out devices.
_RIDGES = (0.03, 0.3, 3.0)
# Kernel widths of the Gaussian process, in units of the typical distance between features.
_LENGTHS = (1.0, 3.0)
_GP_NOISE = 0.05


@dataclass(frozen=True)
class Quality:
    """How good a model is on subnets that it has not seen, by leaving each measured one out in turn."""

    held_out_relative_error: float
    spearman: float
    count: int
    kind: str


@dataclass(frozen=True)
class Prediction:
    """Milliseconds: the expected median, and bounds that 90 % of subnets lie within."""

    ms: Floats
    low_ms: Floats
    high_ms: Floats


def cost_features(space: Space, encodings: Sequence[Encoding], resolution_px: int, classes: int) -> Floats:
    """Return (n, 5): MACs, depthwise MACs, activations, parameters and layers. MACs stand first."""
    costs = [space.cost(encoding, resolution_px, classes) for encoding in encodings]
    return np.array(
        [[one.macs, one.depthwise_macs, one.activations, one.params, one.layers] for one in costs], dtype=np.float64
    )


_Fit = Callable[[Floats, Floats], Callable[[Floats], Floats]]


def _gain(features: Floats, ms: Floats) -> Callable[[Floats], Floats]:
    """MACs with a gain: what everybody uses, and the floor for all others."""
    gain = np.exp(np.mean(np.log(ms) - np.log(features[:, 0])))
    return lambda other: np.asarray(gain * other[:, 0])


def _line(features: Floats, ms: Floats) -> Callable[[Floats], Floats]:
    """MACs with a gain and a fixed cost, fitted to relative errors."""
    design = np.c_[features[:, 0], np.ones(len(ms))] / ms[:, None]
    gain, fixed = np.maximum(np.linalg.lstsq(design, np.ones(len(ms)), rcond=None)[0], 0.0)
    return lambda other: np.maximum(gain * other[:, 0] + fixed, 1e-6)


def _ridge(penalty: float) -> _Fit:
    def fit(features: Floats, ms: Floats) -> Callable[[Floats], Floats]:
        centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-12
        design = np.c_[(features - centre) / spread, np.ones(len(ms))] / ms[:, None]
        shrink = np.diag([penalty / np.mean(ms) ** 2] * features.shape[1] + [0.0])
        weights = np.linalg.solve(design.T @ design + shrink, design.T @ np.ones(len(ms)))
        # Extrapolation below everything measured would promise latencies that no device has.
        floor = 0.5 * float(ms.min())
        return lambda other: np.maximum(np.c_[(other - centre) / spread, np.ones(len(other))] @ weights, floor)

    return fit


def _process(length: float) -> _Fit:
    """A Gaussian process on the logarithm of latency, about the line through MACs."""

    def fit(features: Floats, ms: Floats) -> Callable[[Floats], Floats]:
        base = _line(features, ms)
        logs = np.log(features)
        centre, spread = logs.mean(axis=0), logs.std(axis=0) + 1e-12

        def kernel(a: Floats, b: Floats) -> Floats:
            distance = ((a[:, None, :] - b[None, :, :]) ** 2).mean(axis=2)
            return np.asarray(np.exp(-distance / (2 * length**2)))

        known = (logs - centre) / spread
        residual = np.log(ms) - np.log(base(features))
        weights = np.linalg.solve(kernel(known, known) + _GP_NOISE * np.eye(len(ms)), residual)

        def predict(other: Floats) -> Floats:
            return np.asarray(base(other) * np.exp(kernel((np.log(other) - centre) / spread, known) @ weights))

        return predict

    return fit


_KINDS: dict[str, _Fit] = {
    "MACs with a gain": _gain,
    "MACs with a gain and a fixed cost": _line,
    **{f"ridge on operator costs ({penalty:g})": _ridge(penalty) for penalty in _RIDGES},
    **{f"Gaussian process ({length:g})": _process(length) for length in _LENGTHS},
}


class LatencyModel:
    """Latency of any subnet on one device type, from few measurements there.

    Of several models the one with the smallest held-out error is used, so it is never worse than MACs with a gain where
    it was measured.
    """

    def __init__(self, features: Floats, ms: Floats) -> None:
        """`features` (n, d) as of cost_features, `ms` (n,) measured medians; n is at least 3, else ValueError."""
        if len(ms) < 3:
            raise ValueError(f"{len(ms)} measurements are too few to fit a latency model; at least 3 are needed")
        left_out = {kind: _left_out(fit, features, ms) for kind, fit in _KINDS.items()}
        errors = {kind: float(np.mean(np.abs(found / ms - 1.0))) for kind, found in left_out.items()}
        kind = min(errors, key=lambda name: errors[name])
        rank = float(spearmanr(left_out[kind], ms).statistic)
        self.quality = Quality(errors[kind], rank if np.isfinite(rank) else 0.0, len(ms), kind)
        self._predict = _KINDS[kind](features, ms)
        spread = float(np.sqrt(np.mean(np.log(left_out[kind] / ms) ** 2)))
        self._factor = float(np.exp(student.ppf(0.5 + _CONFIDENCE / 2, len(ms) - 1) * spread))

    def predict(self, features: Floats) -> Prediction:
        ms = self._predict(features)
        return Prediction(ms, ms / self._factor, ms * self._factor)


def _left_out(fit: _Fit, features: Floats, ms: Floats) -> Floats:
    found = np.empty(len(ms))
    for index in range(len(ms)):
        rest = np.arange(len(ms)) != index
        found[index] = fit(features[rest], ms[rest])(features[index : index + 1])[0]
    return np.maximum(found, 1e-9)


class AccuracyModel:
    """Accuracy of any subnet from some that were really evaluated: ridge regression on choices and log MACs."""

    def __init__(self, space: Space, encodings: Sequence[Encoding], accuracies: Sequence[float], sizes: Floats) -> None:
        """`sizes` (n,) are MACs."""
        self._space = space
        design, target = self._design(encodings, sizes), np.asarray(accuracies)
        scores = {penalty: _ridge_left_out(design, target, penalty) for penalty in (0.3, 1.0, 3.0, 10.0)}
        penalty = min(scores, key=lambda one: float(np.mean((scores[one] - target) ** 2)))
        tau = float(kendalltau(scores[penalty], target).statistic)
        self.kendall_tau = tau if np.isfinite(tau) else 0.0
        self._mean = float(target.mean())
        self._centre = design.mean(axis=0)
        centred = design - self._centre
        self._weights = np.linalg.solve(
            centred.T @ centred + penalty * np.eye(design.shape[1]), centred.T @ (target - self._mean)
        )

    def predict(self, encodings: Sequence[Encoding], sizes: Floats) -> Floats:
        """Return accuracies (n,), within 0 to 1."""
        design = self._design(encodings, sizes) - self._centre
        return np.asarray(np.clip(design @ self._weights + self._mean, 0.0, 1.0))

    def _design(self, encodings: Sequence[Encoding], sizes: Floats) -> Floats:
        choices = np.array(encodings, dtype=np.float64) / np.maximum(1, np.array(self._space.sizes) - 1)
        return np.asarray(np.c_[choices, 4.0 * np.log(np.asarray(sizes, dtype=np.float64) / 1e6)])


def _ridge_left_out(design: Floats, target: Floats, penalty: float) -> Floats:
    """Return leave-one-out predictions of ridge regression in closed form (Hastie et al. 2009, equation 7.64)."""
    centred = design - design.mean(axis=0)
    inverse = np.linalg.inv(centred.T @ centred + penalty * np.eye(design.shape[1]))
    hat = centred @ inverse @ centred.T + 1.0 / len(target)
    fitted = centred @ inverse @ centred.T @ (target - target.mean()) + target.mean()
    return np.asarray(target - (target - fitted) / (1.0 - np.diag(hat)))
