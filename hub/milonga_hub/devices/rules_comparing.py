"""Which of some models is the fastest on a device, from rounds in which each was measured once.

A device is never as fast in one minute as in the next: it heats up, and other work comes and goes. Whatever it is, what is measured
in one round, in random order, has it in common as far as anything can, so times are only ever compared within a round.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, median

from milonga_hub.ties import TIE

# What takes this many times as long as the fastest when it is first measured is out: a core that is taken away and comes back
# makes a factor of two.
_OUT = 2.0
# Two rounds tell nothing of how far rounds lie apart.
_FEWEST = 3
# The range of five values holds the median in 94 % of all cases: 1/32 of them lie beyond either end.
_BEYOND = 1 / 32
_RANGE_TELLS = 5

# Of a normal distribution, 94 % lie within so many standard deviations.
_DEVIATIONS = 1.88
# Another model goes on while it can be expected to be faster by this share: where the fastest is a tie, more rounds find out very
# slowly, and for next to nothing, which of both it is.
_WORTH = TIE / 2

# Milliseconds by model, of what one device measured in one round.
Round = Mapping[str, float]


@dataclass(frozen=True)
class Ratio:
    """How many times as long as the fastest a model takes, with its 94 % interval; 0 to infinity where rounds are too few."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """The fastest so far, its median in ms, and what all take in times of it. Its own ratio has the interval of its median."""

    fastest: str
    ms: float
    ratios: Mapping[str, Ratio]


def next_round(rounds: Sequence[Round], failed: Collection[str] = ()) -> tuple[str, ...]:
    """Return what to measure once more; nothing where no other can be expected to be faster by a time that is worth a round.

    What failed is not asked for again.
    """
    first: dict[str, float] = {}
    for each in rounds:
        first = {**each, **first}
    now = standing(rounds)
    going = tuple(
        name
        for name, ratio in now.ratios.items()
        if name not in failed
        and first[name] <= _OUT * min(first.values())
        and (name == now.fastest or _gain(ratio) > _WORTH)
    )
    return going if now.fastest in going and len(going) > 1 else ()


def standing(rounds: Sequence[Round]) -> Standing:
    """Return how the models stand after some rounds, not all of which need to have all of them.

    The fastest is the one that loses the least to any other: by the median, over rounds, of what it takes in times of the other that
    beats it most. Medians neither hear of the rounds that a burst of other work fell into, nor need it to be fast again.
    """
    names = list(dict.fromkeys(name for each in rounds for name in each))
    fastest = min(
        names, key=lambda name: max((_times(rounds, name, other) for other in names if other != name), default=1.0)
    )
    own = [each[fastest] for each in rounds if fastest in each]
    ms = median(own)
    low, high = _interval(own)
    ratios = {name: _ratio(rounds, name, fastest) for name in names if name != fastest}
    return Standing(fastest, ms, {fastest: Ratio(1.0, low / ms, high / ms), **ratios})


def _ratio(rounds: Sequence[Round], name: str, fastest: str) -> Ratio:
    return Ratio(_times(rounds, name, fastest), *_interval(_shared(rounds, name, fastest)))


def _gain(ratio: Ratio) -> float:
    """Return by which share of time a model can be expected to be faster than the fastest, counted as 0 where it is not.

    This is what is expected to be lost by ending now (expected opportunity cost: Chick and Inoue 2001), for a ratio with a normal
    distribution of as much spread as its interval has below it: a burst of other work above it says nothing of how fast a model can be.
    """
    if ratio.low <= 0 or ratio.high == math.inf:
        return math.inf
    if (spread := (ratio.value - ratio.low) / _DEVIATIONS) == 0:
        return max(0.0, 1 - ratio.value)
    normal, reach = NormalDist(), (1 - ratio.value) / spread
    return spread * (normal.pdf(reach) + reach * normal.cdf(reach))


def _times(rounds: Sequence[Round], name: str, other: str) -> float:
    """Return how many times as long as another a model takes; by all their rounds where they have none in common."""
    if shared := _shared(rounds, name, other):
        return median(shared)
    return median(each[name] for each in rounds if name in each) / median(
        each[other] for each in rounds if other in each
    )


def _shared(rounds: Sequence[Round], name: str, other: str) -> list[float]:
    return [each[name] / each[other] for each in rounds if name in each and other in each]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 94 % interval of the median, by ranks (Le Boudec 2010, theorem 2.1).

    Of three or four values it is the range with as much again at either end: for three of a normal distribution, Student's interval
    (4.6 standard errors, 2.5 standard deviations, and they span 1.7).
    """
    if len(values) < _FEWEST:
        return 0.0, math.inf
    ordered = sorted(values)
    if len(values) < _RANGE_TELLS:
        reach = ordered[-1] - ordered[0]
        return ordered[0] - reach, ordered[-1] + reach
    beyond = _left_out(len(values))
    return ordered[beyond], ordered[-1 - beyond]


@cache
def _left_out(count: int) -> int:
    """Return how many values may be left out at either end (binomial, one half)."""
    left_out, chance = 0, 1.0
    while (chance := chance + math.comb(count, left_out + 1)) <= _BEYOND * 2.0**count:
        left_out += 1
    return left_out
