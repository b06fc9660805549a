"""Which validation pictures judge versions alone: no training and no search sees how they are answered (ADR 47)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Halves of fewer tell neither which subnet is better nor which version.
FEWEST = 200
FEWEST_A_CLASS = 20


def held_back(digests: Sequence[str], classes: int) -> NDArray[np.bool_]:
    """Return which validation pictures (n,), given by their digests, are held back: a half of them by chance, none where there are too few.

    Nor are any where a digest is not known ("": files that no hub wrote). It depends on the digest alone, so that a picture that judges today
    chose no version before, while there were enough.
    """
    if len(digests) < fewest(classes) or not all(digests):
        return np.zeros(len(digests), dtype=bool)
    # Hashed once more: the digest's own digits choose the split.
    return np.array([hashlib.sha256(f"judge {one}".encode()).digest()[0] % 2 == 0 for one in digests], dtype=bool)


def fewest(classes: int) -> int:
    """Return from how many validation pictures on some are held back."""
    return max(FEWEST, FEWEST_A_CLASS * classes)
