"""Python's collector of garbage, and what it need not look at."""

from __future__ import annotations

import gc

# Objects made and not let go of, before those made of late are walked through. A window of telemetry is some thirty; at 700, Python's own
# number, hundreds of windows that wait for their transaction were walked through again and again, for a third of what a window costs.
_YOUNG = 20_000


def leave_what_stays() -> None:
    """Take everything that is in memory for lasting: a walk through it, a tenth of a second, would hold up every answer now and then."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)
