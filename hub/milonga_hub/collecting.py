"""Python's collector of garbage, and what it need not look at."""

from __future__ import annotations

import gc


def leave_what_stays() -> None:
    """Take everything that is in memory for lasting: a walk through it, a tenth of a second, would hold up every answer now and then."""
    gc.collect()
    gc.freeze()
