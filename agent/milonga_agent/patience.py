"""How long to wait before the hub is asked again: longer each time, and never all devices at once. Pure."""

from __future__ import annotations

import random

_MAX_BACKOFF_SECONDS = 30.0
# Failures after which the longest wait is reached.
_PATIENT = 10
_MAX_REFUSED_SECONDS = 3600.0


def backoff_seconds(attempt: int, source: random.Random) -> float:
    """Return how long to wait after the n-th failure: doubling, with jitter so that a fleet does not return as one."""
    return min(_MAX_BACKOFF_SECONDS, 0.25 * 2.0 ** min(attempt, _PATIENT)) * source.uniform(0.5, 1.0)


def refused_seconds(attempt: int, source: random.Random) -> float:
    """Return how long to wait after the n-th refusal in a row: no repetition changes the hub's mind, an operator may."""
    return min(_MAX_REFUSED_SECONDS, 30.0 * 2.0**attempt) * source.uniform(0.75, 1.0)
