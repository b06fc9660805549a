"""What evaluating one more subnet is expected to add to a front of accuracy and latency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

# Below this, a prediction counts as known: evaluations themselves vary by more.
_LEAST_DEVIATION = 1e-6


def expected_gains(
    known_accuracy: Floats, known_ms: Floats, accuracy: Floats, deviation: Floats, ms: Floats, slowest_ms: float
) -> Floats:
    """Return the expected improvement of the dominated hypervolume by each of n candidates, (n,).

    The volume is of accuracy above 0 times latency below `slowest_ms`. Latencies count as known, accuracies (n,) as normal with these
    deviations. With two objectives that is a sum over the steps of the front of known points (k,): the step's width times the expected
    improvement of accuracy over its height (Emmerich et al. 2011; Jones et al. 1998 for one objective).
    """
    heights, edges = _stairs(known_accuracy, known_ms, slowest_ms)
    begin = ms[:, None]
    widths = np.clip(edges[1:][None, :] - np.maximum(edges[:-1][None, :], begin), 0.0, None)
    gains: Floats = (widths * _improvement(accuracy[:, None], deviation[:, None], heights[None, :])).sum(axis=1)
    return gains


def expected_improvement(best: float, accuracy: Floats, deviation: Floats) -> Floats:
    """Return by how much each of n candidates is expected to be more accurate than the best that is known, (n,) (Jones 1998)."""
    return _improvement(accuracy, deviation, np.array(best))


def _improvement(accuracy: Floats, deviation: Floats, over: Floats) -> Floats:
    spread = np.maximum(deviation, _LEAST_DEVIATION)
    above = (accuracy - over) / spread
    density = np.exp(-(above**2) / 2) / np.sqrt(2 * np.pi)
    found: Floats = spread * (above * ndtr(above) + density)
    return found


def _stairs(accuracy: Floats, ms: Floats, slowest_ms: float) -> tuple[Floats, Floats]:
    """Return the height (s,) of each step of the front, and the edges (s + 1,) of the steps in ms; the first has height 0."""
    order = np.argsort(ms, kind="stable")
    heights = np.concatenate([[0.0], np.maximum.accumulate(accuracy[order])])
    edges = np.concatenate([[-np.inf], np.minimum(ms[order], slowest_ms), [slowest_ms]])
    return heights, edges
