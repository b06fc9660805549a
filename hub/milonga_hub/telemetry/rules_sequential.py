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
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from milonga_hub.evalues import averaged, spread, unlikeness_of
from milonga_hub.telemetry.rules_allowed import Allowed, Balls, Floats, Indices

K = TypeVar("K", bound=Hashable)

MONTH_SECONDS = 30 * 86400.0
# Moments that are remembered, the newer the denser: an older drift is then found from the next remembered one on.
MAX_MOMENTS = 12
# The longest windows that there are; a device with a wrong clock must not stake more.
MAX_STAKE_SECONDS = 3600.0
# Neighbours that tell how unlike windows are when nothing happens.
MAX_NEIGHBOURS = 21
_CLOSE = (0.02, 0.1, 0.25, 0.5)


def stability_index(expected: Floats, counts: Floats) -> float:
    """Return the population stability index of counts (k,) against a distribution, less what it is by chance."""
    n, k = float(counts.sum()), len(counts)
    shares = (counts + 0.5) / (n + 0.5 * k)
    return max(0.0, float(((shares - expected) * np.log(shares / expected)).sum()) - (k - 1) / max(n, 1.0))


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


def evidence(watches: Sequence[Watch], alloweds: Sequence[Allowed]) -> list[Evidence]:
    """Return what speaks for a drift now, of each watch with what is allowed for it: all at once, however many there are."""
    found = [Evidence()] * len(watches)
    of = np.repeat(np.arange(len(watches)), [len(watch.times) for watch in watches])
    if not len(of):
        return found
    each, place = _numbered(alloweds)
    balls = Balls(each).rows(place[of])
    counts = np.zeros(balls.filled.shape)
    counts[balls.filled] = np.concatenate([watch.since.ravel() for watch in watches])
    stakes = np.concatenate([watch.stakes for watch in watches])
    with np.errstate(divide="ignore"):
        staked = averaged(counts, balls.groups) + np.log(stakes)
        rows, shares = np.flatnonzero(np.isfinite(staked)), balls.shares(counts)
        for close in _CLOSE:
            rows = rows[~_shows_none_won(balls.rows(rows), counts[rows], shares[rows], staked[rows], close)]
        if not len(rows):
            return found
        nearest = balls.rows(rows).nearest(shares[rows])
        won = staked[rows] - (counts[rows] * np.log(nearest)).sum(axis=1)
    starts = np.cumsum([0, *(len(watch.times) for watch in watches)])
    for index in np.unique(of[rows]):
        its = np.flatnonzero(of[rows] == index)
        watch, best = watches[index], its[np.argmax(won[its])]
        total = float(won[best] + np.log(np.exp(won[its] - won[best]).sum()))
        moment = rows[best] - starts[index]
        found[index] = Evidence(total, watch.times[moment], watch.since[moment])
    return found


def _numbered(alloweds: Sequence[Allowed]) -> tuple[list[Allowed], Indices]:
    """Return each of these once, and for each of them its place there: devices with one bundle share what is allowed."""
    known: dict[int, int] = {}
    place = [known.setdefault(id(one), len(known)) for one in alloweds]
    once = {id(one): one for one in alloweds}
    return [once[key] for key in known], np.array(place, dtype=np.int64)


def _shows_none_won(balls: Balls, counts: Floats, shares: Floats, staked: Floats, close: float) -> NDArray[np.bool_]:
    """Return (n,) where something close to what was seen is allowed and shows that nothing was won, as it does nearly always.

    The nearest, which shows what was won, takes longer to find.
    """
    nearer = balls.nearer(shares, close)
    logarithms = np.log(nearer)
    return np.asarray((staked <= (counts * logarithms).sum(axis=1)) & balls.hold(nearer, logarithms))


def is_allowed(watch: Watch, allowed: Allowed, answers: int) -> bool:
    """Return whether the newest moment with so many independent answers since shows no drift."""
    enough = np.flatnonzero(watch.since.sum(axis=1) >= answers)
    if not len(enough):
        return False
    ball = Balls([allowed])
    shares = ball.shares(watch.since[enough[-1:]] + 0.5)
    return bool(ball.hold(shares, np.log(shares))[0])


def drifted(won: Mapping[K, float], false_alarms_per_month: float, watched: int) -> set[K]:
    """Return which of all that are watched have drifted, by the logarithms of what each has won (the e-BH procedure).

    `watched` is how many they are; `won` may leave out those that have won less than `least_won`, since they are never named.
    While none has drifted, the chance that any is named within a month is `false_alarms_per_month` at most; where some have, so large a
    share of those that are named is wrong on average. It holds however one depends on another (Wang and Ramdas 2022, "False discovery
    rate control with e-values", theorem 3).
    """
    ranked = sorted(won, key=lambda one: -won[one])
    wanted = math.log(max(watched, 1) / false_alarms_per_month)
    enough = [place for place, one in enumerate(ranked, 1) if won[one] >= wanted - math.log(place)]
    return set(ranked[: max(enough, default=0)])


def least_won(false_alarms_per_month: float) -> float:
    """Return what is won at least by what has drifted, if all that is watched has."""
    return math.log(1 / false_alarms_per_month)
