"""The plainest model of a new device: so much of this device, so much of that. It holds where all devices are noisy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from milonga_hub.learning.latency.process import Floats, Indices

# Errors of 1 in the logarithm are as bad as any.
_MOST_ERROR = 1.0
# Weight by exp(-K/4 log of mean square error): half of the log density, as errors of K points share their networks.
_SHARPNESS = 0.25
# Ten errors cannot tell more: without this limit, GPUs that no source resembles lose 20 points of rank (protocol C of
# benchmarks/latency.py, FBNet, K = 10); with it a few, and noisy phones gain 1.
_MOST_SHARE = 0.2
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Mix:
    """Non-negative least squares of latency on curves of other devices and costs.

    `logs` (n,) are logarithms of latency in ms; `left_out` (k,) those of measured networks, as the others predict them.
    """

    logs: Floats
    left_out: Floats
    variance: float

    @classmethod
    def of(cls, curves: Floats, index: Indices, ms: Floats) -> Mix:
        """`curves` (n, m) above 0; `ms` (k,) were measured on the networks `index` (k,)."""
        scaled = curves / curves.mean(axis=0)
        rows = np.arange(len(ms))
        others = [rows != row for row in rows]
        left_out = np.array(
            [
                _mixed(scaled[index[row : row + 1]], scaled[index[kept]], ms[kept])[0]
                for row, kept in zip(rows, others, strict=True)
            ]
        )
        errors = np.clip(left_out - np.log(ms), -_MOST_ERROR, _MOST_ERROR)
        return cls(_mixed(scaled, scaled[index], ms), left_out, float(np.mean(errors**2)))

    def share(self, variance: float) -> float:
        """Return what part of a prediction is this model's, beside one with this mean square error of logarithms.

        Pseudo-Bayesian model averaging by errors that were left out (Yao et al. 2018).
        """
        ratio = max(self.variance, _SMALLEST) / max(variance, _SMALLEST)
        return float(min(_MOST_SHARE, 1.0 / (1.0 + ratio ** (_SHARPNESS * len(self.left_out)))))


def _mixed(wanted: Floats, curves: Floats, ms: Floats) -> Floats:
    weights, _ = nnls(curves, ms)
    return np.asarray(np.log(np.maximum(wanted @ weights, _SMALLEST * ms.mean())))
