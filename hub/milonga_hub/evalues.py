"""What tests share that may be asked at every look: likelihoods averaged over shares, and how alike answers of one moment are. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]

# Fewer pairs of neighbours tell nothing of how alike they are.
MIN_NEIGHBOURS = 5


def averaged(counts: Floats, groups: NDArray[np.int64] | None = None) -> Floats:
    """Return the log likelihood of counts (n, k) in their order, averaged over Dirichlet(1/2, ..., 1/2).

    `groups` (n,) is how many each row has, where some have fewer and are filled up with zeros.
    """
    k = counts.shape[1] if groups is None else groups
    each = (gammaln(counts + 0.5) - gammaln(0.5)).sum(axis=1)
    return np.asarray(each + gammaln(0.5 * k) - gammaln(counts.sum(axis=1) + 0.5 * k))


def unlikeness_of(before: Floats, now: Floats) -> float | None:
    """Return the chi-squared statistic of two windows over its degrees of freedom: 1 where answers are independent."""
    # A handful of groups: numpy takes five times as long for so few.
    kept = [(one, other) for one, other in zip(before.tolist(), now.tolist(), strict=True) if one + other > 0]
    m, n = sum(one for one, _ in kept), sum(other for _, other in kept)
    if len(kept) < 2 or min(m, n) < 2 * len(kept):
        return None
    fewer, more = math.sqrt(n / m), math.sqrt(m / n)
    return float(sum((one * fewer - other * more) ** 2 / (one + other) for one, other in kept) / (len(kept) - 1))


def spread(unlikeness: Sequence[float]) -> float:
    """Return as how many answers one independent one counts: pictures of one scene are alike, and tell less than they are.

    The median forgives that a drift began between two of the windows.
    """
    return max(1.0, statistics.median(unlikeness)) if len(unlikeness) >= MIN_NEIGHBOURS else 1.0
