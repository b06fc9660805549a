"""Requests that fail with a new version and without it: how often a rollout is stopped for chance, and how soon for a reason.

A canary is asked ten times a minute, the devices without the version thirty times; the hub looks every minute, for twelve hours. The peers are what
people do by eye, to stop where 50 requests or more show a larger share than is allowed, and a test of two shares at the same level (one-sided, 1 in
100), asked anew at each look. How soon these stop a version that fails twice as often has to be read beside how often they stop one that does not.
MILONGA_BENCH_EFFORT=0.2 plays fewer rollouts, in half a minute.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable

import numpy as np
from milonga_hub.rollouts.needs import Requests
from milonga_hub.rollouts.rules_requests import FALSE_ALARMS, FEW_REQUESTS, log_evidence
from numpy.typing import NDArray

from benchmarks.results import Result

_EFFORT = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
_ROLLOUTS = max(40, round(1000 * _EFFORT))
_FOUND = max(20, round(100 * _EFFORT))
_WITH_IT, _ELSEWHERE = 10, 30
_MINUTES = 12 * 60
# Of a normal distribution, one-sided, at the level that the evidence is held to; and what no evidence so large goes without.
_LEVEL, _LEAST = 2.326, 2.0

Counts = NDArray[np.float64]
# Requests and failures with the version, then without it, from the beginning to each minute, and by how much the share may be larger.
Stops = Callable[[Counts, Counts, Counts, Counts, float], NDArray[np.bool_]]


def _by_eye(n: Counts, k: Counts, m: Counts, j: Counts, limit: float) -> NDArray[np.bool_]:
    return (n >= FEW_REQUESTS) & (m >= FEW_REQUESTS) & (k / n - j / m > limit + 1e-9)


def _distance(n: Counts, k: Counts, m: Counts, j: Counts, limit: float) -> Counts:
    """Return by how many standard errors the difference is larger than allowed."""
    p, q = (k / n, j / m) if limit else ((k + j) / (n + m),) * 2
    return (k / n - j / m - limit) / np.sqrt(p * (1 - p) / n + q * (1 - q) / m + 1e-12)


def _test(n: Counts, k: Counts, m: Counts, j: Counts, limit: float) -> NDArray[np.bool_]:
    return (n >= FEW_REQUESTS) & (m >= FEW_REQUESTS) & (_distance(n, k, m, j, limit) > _LEVEL)


def _evidence(n: Counts, k: Counts, m: Counts, j: Counts, limit: float) -> NDArray[np.bool_]:
    found = np.zeros(len(n), dtype=np.bool_)
    for place in np.flatnonzero(_distance(n, k, m, j, limit) > _LEAST):
        ours, theirs = Requests(int(n[place]), int(k[place])), Requests(int(m[place]), int(j[place]))
        if log_evidence(ours, theirs, limit) >= -math.log(FALSE_ALARMS):
            found[place] = True
            break
    return found


def _stopped_at(stops: Stops, seed: int, share: float, usual: float, limit: float) -> int | None:
    """Return the minute at which a rollout is stopped."""
    random = np.random.default_rng(seed)
    asked = random.poisson((_WITH_IT, _ELSEWHERE), (_MINUTES, 2))
    failed = random.binomial(asked, (share, usual))
    # From the fifth minute on both were asked something.
    n, m, k, j = (each.cumsum().astype(np.float64)[4:] for each in (*asked.T, *failed.T))
    found = np.flatnonzero(stops(n, k, m, j, limit))
    return int(found[0]) + 5 if len(found) else None


def _all(stops: Stops, rollouts: int, share: float, usual: float, limit: float) -> tuple[float, float]:
    """Return the share of rollouts that are stopped, and the median of the minutes until then."""
    found = [_stopped_at(stops, seed, share, usual, limit) for seed in range(rollouts)]
    return (
        sum(minute is not None for minute in found) / rollouts,
        statistics.median(math.inf if minute is None else minute for minute in found),
    )


def run() -> list[Result]:
    """Return what there is to claim of stopping rollouts."""
    results = []
    for share, usual, limit in ((0.03, 0.03, 0.0), (0.05, 0.03, 0.02), (0.03, 0.03, 0.02), (0.3, 0.3, 0.0)):
        told = f"stopped within 12 h at {share:.0%} with it, {usual:.0%} without it, {limit:.0%} more allowed"
        ours, _ = _all(_evidence, _ROLLOUTS, share, usual, limit)
        for peer, stops in (("by eye", _by_eye), ("a test at each look", _test)):
            theirs, _ = _all(stops, _ROLLOUTS, share, usual, limit)
            results.append(Result(told, 100 * ours, "%", peer, 100 * theirs, 1.0 if theirs else None))
        results.append(Result(told, 100 * ours, "%", "what is promised", 100 * FALSE_ALARMS, 1.0))
    for share, usual, limit in (
        (0.06, 0.03, 0.0),
        (0.06, 0.03, 0.01),
        (0.1, 0.03, 0.02),
        (0.3, 0.03, 0.02),
        (0.1, 0.05, 0.0),
    ):
        told = f"until stopped at {share:.0%} with it, {usual:.0%} without it, {limit:.0%} more allowed"
        stopped, ours = _all(_evidence, _FOUND, share, usual, limit)
        _, theirs = _all(_test, _FOUND, share, usual, limit)
        results.append(Result(f"{told} ({stopped:.0%} within 12 h)", ours, "min", "a test at each look", theirs, None))
    return results
