"""Whether counts have left what is allowed, asked anew with every window, for ever, and seldom wrong. Pure.

Each start of a window is a moment at which a drift may have begun. From each of them on, the counts are held against two
explanations: the likeliest of all distributions that still count as no drift, and any distribution at all, averaged over
Jeffreys' prior. Their ratio is an e-value by universal inference (Wasserman, Ramdas and Balakrishnan 2020, "Universal
inference", section 8): whatever allowed distribution the counts come of, and whenever one looks, it is above x with a chance of at
most 1/x. A moment is staked with its share of a month, so that what all moments together have won by the end of a month is 1 at most on
average (Shiryaev and Roberts' procedure with e-values: Shin, Ramdas and Rinaldo 2022, "E-detectors").
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from milonga_hub.evalues import averaged, spread, unlikeness_of

Floats = NDArray[np.float64]
K = TypeVar("K", bound=Hashable)

MONTH_SECONDS = 30 * 86400.0
# Bins of the reference are merged until each holds this share: more of them see finer shifts, and see each of them later.
MIN_SHARE = 0.1
# Moments that are remembered, the newer the denser: an older drift is then found from the next remembered one on.
MAX_MOMENTS = 12
# The longest windows that there are; a device with a wrong clock must not stake more.
MAX_STAKE_SECONDS = 3600.0
# The chance that the world which the reference is a sample of lies outside of what is allowed for that.
REFERENCE_DOUBT = 0.001
# Neighbours that tell how unlike windows are when nothing happens.
MAX_NEIGHBOURS = 21
_HALVINGS = 24
_CLOSE = (0.02, 0.1, 0.25, 0.5)


@dataclass(frozen=True, eq=False)
class Allowed:
    """The distributions over bins that count as no drift: those within `radius` nats of the expected one.

    Where `one_sided`, there are two bins, and less in the second is allowed, however much less.
    """

    groups: tuple[tuple[int, ...], ...]
    expected: Floats
    radius: float
    one_sided: bool = False

    def counts(self, counts: Sequence[int]) -> Floats:
        """Return counts by group (k,); bins beyond those of the reference count to the last one."""
        last, known = len(self.groups) - 1, self._group_of
        found = [0.0] * len(self.groups)
        for group, count in zip(known, counts, strict=False):
            found[group] += count
        for count in counts[len(known) :]:
            found[last] += count
        return np.array(found)

    @cached_property
    def _group_of(self) -> list[int]:
        """The group of each bin; those that no group names are in the last."""
        known = {index: number for number, group in enumerate(self.groups) for index in group}
        return [known.get(index, len(self.groups) - 1) for index in range(max(known) + 1)]

    def distance(self, shares: Floats) -> Floats:
        """Return the divergence of the expected distribution from each of shares (n, k), in nats; inf for bins without any."""
        with np.errstate(divide="ignore"):
            far = np.asarray((self.expected * (np.log(self.expected) - np.log(shares))).sum(axis=-1))
        return np.where(shares[..., 1] <= self.expected[1], 0.0, far) if self.one_sided else far

    def nearest(self, shares: Floats) -> Floats:
        """Return of all allowed distributions those (n, k) that make counts with these shares (n, k) likeliest.

        They lie on the line to the expected one (the Lagrange condition of the likelihood within a ball of this divergence).
        """
        low, high = np.zeros(len(shares)), np.ones(len(shares))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = self.distance(_between(shares, self.expected, middle)) <= self.radius
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        return _between(shares, self.expected, high)


def _between(left: Floats, right: Floats, share: Floats) -> Floats:
    return (1 - share[:, None]) * left + share[:, None] * right


def allowed(reference: Sequence[float], index: float, *, ordered: bool = True) -> Allowed | None:
    """Return what counts as no drift from the reference's counts; None where they say nothing.

    `index` is the stability index that is let pass: half of it in this direction (it is the sum of both), and as much more as a sample of
    this size may be from its world. Bins before the first and after the last that occurs have groups of their own.
    """
    counts = np.asarray(reference, dtype=np.float64)
    total = float(counts.sum())
    if total <= 0 or len(counts) < 2:
        return None
    groups = _groups(counts, ordered)
    merged = np.array([counts[list(group)].sum() for group in groups]) + 0.5
    return Allowed(
        tuple(tuple(int(one) for one in group) for group in groups),
        merged / merged.sum(),
        index / 2 + float(chdtri(len(groups) - 1, REFERENCE_DOUBT)) / (2 * total),
    )


def at_most(share: float) -> Allowed:
    """Return as no drift that so large a share of things is bad, counted as (good, bad)."""
    return Allowed(((0,), (1,)), np.array([1 - share, share]), 0.0, one_sided=True)


def stability_index(expected: Floats, counts: Floats) -> float:
    """Return the population stability index of counts (k,) against a distribution, less what it is by chance."""
    n, k = float(counts.sum()), len(counts)
    shares = (counts + 0.5) / (n + 0.5 * k)
    return max(0.0, float(((shares - expected) * np.log(shares / expected)).sum()) - (k - 1) / max(n, 1.0))


def _groups(counts: Floats, ordered: bool) -> list[list[int]]:
    occurring = np.flatnonzero(counts)
    first, last = int(occurring[0]), int(occurring[-1])
    if ordered:
        inside, outside = list(range(first, last + 1)), [list(range(first)), list(range(last + 1, len(counts)))]
    else:
        inside = [int(one) for one in np.argsort(-counts, kind="stable") if counts[one] > 0]
        outside = [[], [int(one) for one in np.flatnonzero(counts == 0)]]
    groups: list[list[int]] = [[]]
    for index in inside:
        if counts[groups[-1]].sum() >= MIN_SHARE * counts.sum():
            groups.append([])
        groups[-1].append(index)
    if len(groups) > 1 and counts[groups[-1]].sum() < MIN_SHARE * counts.sum():
        rest = groups.pop()
        groups[-1] += rest
    return [group for group in (outside[0], *groups, outside[1]) if group]


@dataclass(frozen=True, eq=False)
class Watch:
    """One signal of one device, as far as it has been looked at."""

    # Counts since each remembered moment (n, k), what each is staked with, and when each was.
    since: Floats
    stakes: Floats
    times: tuple[float, ...] = ()
    # The last window's counts (k,), and how unlike neighbours were.
    last: Floats | None = None
    unlikeness: tuple[float, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What speaks for a drift: the logarithm of what was won, and the moment that won the most with its counts since."""

    log_won: float = -math.inf
    began_at: float = 0.0
    counts: Floats = field(default_factory=lambda: np.zeros(0))

    def chance(self, watched: int) -> float:
        """Return the largest chance that so much is won in a month without a drift by any of so many that are watched."""
        return min(1.0, watched * math.exp(-max(0.0, self.log_won)))


def fresh(allowed: Allowed) -> Watch:
    """Return a watch that has seen nothing."""
    return Watch(np.zeros((0, len(allowed.groups))), np.zeros(0))


def advance(watch: Watch, counts: Floats, started_at: float, ended_at: float) -> Watch:
    """Return the watch after a window with these counts (k,); times are in seconds."""
    if counts.sum() <= 0 or counts.min() < 0:
        return watch
    stake = min(max(ended_at - started_at, 0.0), MAX_STAKE_SECONDS) / MONTH_SECONDS
    since = _with(watch.since, np.zeros(len(counts))) + counts / spread(watch.unlikeness)
    stakes, times = _with(watch.stakes, stake), (*watch.times, started_at)
    if len(times) > MAX_MOMENTS:
        gone = _least_missed(since.sum(axis=1))
        since, stakes = _without(since, gone), _without(stakes, gone)
        times = (*times[:gone], *times[gone + 1 :])
    unlikeness = watch.unlikeness
    if watch.last is not None and (unlike := unlikeness_of(watch.last, counts)) is not None:
        unlikeness = (*unlikeness, unlike)[-MAX_NEIGHBOURS:]
    return Watch(since, stakes, times, counts, unlikeness)


def _with(rows: Floats, one: Floats | float) -> Floats:
    """Return the rows and one more; numpy's own append takes three times as long for a dozen."""
    found = np.empty((len(rows) + 1, *rows.shape[1:]))
    found[:-1], found[-1] = rows, one
    return found


def _without(rows: Floats, place: int) -> Floats:
    found = np.empty((len(rows) - 1, *rows.shape[1:]))
    found[:place], found[place:] = rows[:place], rows[place + 1 :]
    return found


def renewed(watch: Watch) -> Watch:
    """Return the watch without its evidence: it asks whether what comes from now on has drifted."""
    return replace(watch, since=watch.since[:0], stakes=watch.stakes[:0], times=())


def _least_missed(answers: Floats) -> int:
    """Return the moment whose neighbours are nearest to each other, by the logarithm of what was answered since."""
    logarithms = np.log(answers + 1)
    return 1 + int((logarithms[:-2] - logarithms[2:]).argmin())


def evidence(watch: Watch, allowed: Allowed) -> Evidence:
    """Return what speaks for a drift now."""
    if not len(watch.times):
        return Evidence()
    totals = watch.since.sum(axis=1)
    shares = watch.since / totals[:, None]
    with np.errstate(divide="ignore"):
        staked = averaged(watch.since) + np.log(watch.stakes)
    # Nearly always something close to what was seen is allowed and shows that nothing was won; the nearest takes longer to find.
    won_at_most = np.full(len(totals), np.inf)
    for share in _CLOSE:
        close = _between(shares, allowed.expected, np.full(len(shares), share))
        fits = allowed.distance(close) <= allowed.radius
        won_at_most[fits] = np.minimum(won_at_most, staked - (watch.since * np.log(close)).sum(axis=1))[fits]
    outside = np.flatnonzero((won_at_most > 0) & np.isfinite(staked))
    if not len(outside):
        return Evidence()
    counts = watch.since[outside]
    won = staked[outside] - (counts * np.log(allowed.nearest(shares[outside]))).sum(axis=1)
    best = int(np.argmax(won))
    total = float(won[best] + np.log(np.exp(won - won[best]).sum()))
    return Evidence(total, watch.times[outside[best]], counts[best])


def is_allowed(watch: Watch, allowed: Allowed, answers: int) -> bool:
    """Return whether the newest moment with so many independent answers since shows no drift."""
    enough = np.flatnonzero(watch.since.sum(axis=1) >= answers)
    if not len(enough):
        return False
    counts = watch.since[enough[-1]] + 0.5
    return bool(allowed.distance(counts / counts.sum()) <= allowed.radius)


def drifted(won: Mapping[K, float], false_alarms_per_month: float) -> set[K]:
    """Return which of all that are watched have drifted, by the logarithms of what each has won (the e-BH procedure).

    While none has, the chance that any is named within a month is `false_alarms_per_month` at most; where some have, so large a
    share of those that are named is wrong on average. It holds however one depends on another (Wang and Ramdas 2022, "False discovery
    rate control with e-values", theorem 3).
    """
    ranked = sorted(won, key=lambda one: -won[one])
    wanted = math.log(len(ranked) / false_alarms_per_month) if ranked else 0.0
    enough = [place for place, one in enumerate(ranked, 1) if won[one] >= wanted - math.log(place)]
    return set(ranked[: max(enough, default=0)])
