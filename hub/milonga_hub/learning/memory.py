"""Peak memory of the process that runs a subnet on a device, from what is counted of the subnet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# A line through one point has no slope.
_FEWEST = 2


@dataclass(frozen=True)
class MemoryLine:
    """Measured bytes as `base_bytes` (Python, its libraries and the engine) and `factor` times the counted ones.

    An engine keeps weights in its own order beside those of the file, and room for activations: ONNX Runtime takes some 54 MB
    on x86-64, 11 MB more for any network, and about 3.5 times what is counted.
    """

    base_bytes: float = 0.0
    factor: float = 1.0

    @classmethod
    def fit(cls, counted: Sequence[float], measured: Sequence[float]) -> MemoryLine:
        """Fit bytes (n,) that were measured to those counted (n,), neither part below 0; with fewer than two, what is counted counts."""
        if len(measured) < _FEWEST:
            return cls()
        # In one unit, or squares of bytes leave no digits for the slope.
        scale = float(np.mean(measured))
        table = np.c_[np.ones(len(counted)), np.asarray(counted, dtype=np.float64) / scale]
        (base, factor), _ = nnls(table, np.asarray(measured, dtype=np.float64) / scale)
        return cls(float(base) * scale, float(factor))

    def expected(self, counted_bytes: float) -> int:
        return round(self.base_bytes + self.factor * counted_bytes)
