"""How alike two orders are, without what scipy has them in: to import that took a second of every job that searches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def spearman(first: Floats, second: Floats) -> float:
    """Return Spearman's rank correlation of n pairs; 0 where one side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def kendall(first: Floats, second: Floats) -> float:
    """Return Kendall's tau-b of n pairs (Kendall 1945), in n² room; 0 where one side is constant."""
    orders = [np.sign(np.subtract.outer(side, side)) for side in (first, second)]
    weight = float(np.sqrt(np.prod([np.count_nonzero(order) for order in orders], dtype=np.float64)))
    return float((orders[0] * orders[1]).sum()) / weight if weight else 0.0


def _ranks(values: Floats) -> Floats:
    """Return the rank of each value, (n,); equal ones share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks
