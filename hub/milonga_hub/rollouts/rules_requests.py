"""Whether requests fail more often with a version than without it, asked anew with every window of telemetry and seldom wrong. Pure.

What speaks for it is an e-process, as drift is judged by (telemetry/rules_sequential.py): however often one looks, and whatever share of
requests fails without the version, the chance that it is ever above 1/x is x at most while the version fails no more than it may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from milonga_hub.evalues import averaged, spread, unlikeness_of
from milonga_hub.rollouts.models import Rollout
from milonga_hub.rollouts.needs import Requests

# The chance that a rollout is ever stopped for a version that fails no more than it may; counted anew when one is resumed.
FALSE_ALARMS = 0.01
# Fewer requests to other devices are too few to be held against: those of the day before come to them.
FEW_REQUESTS = 50
_NARROWINGS = 40
_GOLDEN = (math.sqrt(5) - 1) / 2


def requests_of(minutes: Sequence[tuple[int, int]]) -> Requests:
    """Return what was asked and what failed in these minutes, one after another, and how alike requests of one minute are."""
    counts = [np.array([total - failed, failed], dtype=np.float64) for total, failed in minutes]
    unlike = [found for before, now in pairwise(counts) if (found := unlikeness_of(before, now)) is not None]
    return Requests(sum(total for total, _ in minutes), sum(failed for _, failed in minutes), spread(unlike))


def too_many_errors(rollout: Rollout, asked: Mapping[str, Requests]) -> str:
    """Return what the version does worse than others of the project did on other devices, "" while nothing shows that it does."""
    limit, ours = rollout.spec.max_error_increase, asked.get(rollout.model_version, Requests())
    if limit is None:
        return ""
    theirs = without(rollout.model_version, asked)
    if theirs.total == 0 and ours.total < FEW_REQUESTS:
        return ""
    if log_evidence(ours, theirs, limit) < -math.log(FALSE_ALARMS):
        return ""
    beside = f", {theirs.failed / theirs.total:.1%} of {theirs.total} on devices without it" if theirs.total else ""
    return f"{ours.failed / ours.total:.1%} of {ours.total} requests to {rollout.model_version} failed{beside}"


def without(model_version: str, asked: Mapping[str, Requests]) -> Requests:
    """Return what other versions were asked, together."""
    others = [each for version, each in asked.items() if version != model_version]
    total, failed = sum(each.total for each in others), sum(each.failed for each in others)
    told = sum(each.total / each.alike for each in others)
    return Requests(total, failed, total / told if told else 1.0)


def log_evidence(ours: Requests, theirs: Requests, limit: float) -> float:
    """Return the logarithm of what speaks for a share of failures that is larger with the version, by more than `limit`.

    For each share p that may fail without it, two bets are held half and half: that any share but p + `limit` or less fails with it,
    and the same together with any share but p without it; "any" is averaged over Jeffreys' prior. The least won over all p counts, so
    that it holds for the true one (universal inference: Wasserman, Ramdas and Balakrishnan 2020). The first bet alone is what large fleets
    win by: it pays nothing for how little is known of them. Without any requests elsewhere, none is taken to fail there.
    """
    n, k = ours.total / ours.alike, ours.failed / ours.alike
    m, j = theirs.total / theirs.alike, theirs.failed / theirs.alike
    if k <= limit * n:
        return -math.inf
    with_it, elsewhere = _any_share(n, k), _any_share(m, j)

    def won(p: float) -> float:
        allowed = min(p + limit, k / n)
        both = elsewhere - _likelihood(m, j, p)
        return with_it - _likelihood(n, k, allowed) + max(both, 0.0) + math.log1p(math.exp(-abs(both)))

    if not m:
        return with_it - _likelihood(n, k, limit)
    # Both terms are convex in p: the likelihoods are log-concave, and the first no longer falls where p allows what was seen.
    return _least(won, j / m, max(j / m, k / n - limit)) - math.log(2)


def _any_share(total: float, failed: float) -> float:
    return float(averaged(np.array([[failed, total - failed]]))[0])


def _likelihood(total: float, failed: float, share: float) -> float:
    """Return the log likelihood of so many failures in their order."""
    if failed > 0 and share <= 0:
        return -math.inf
    bad = failed * math.log(share) if failed > 0 else 0.0
    return bad + ((total - failed) * math.log1p(-share) if total > failed else 0.0)


def _least(convex: Callable[[float], float], low: float, high: float) -> float:
    """Return the least value of a convex function, by golden sections."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = convex(left), convex(right)
    for _ in range(_NARROWINGS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = convex(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = convex(right)
    return min(at_left, at_right)
