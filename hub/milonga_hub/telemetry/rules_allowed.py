"""Which distributions over bins count as no drift: those near to that of the reference. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Bins of the reference are merged until each holds this share: more of them see finer shifts, and see each of them later.
MIN_SHARE = 0.1
# The chance that the world which the reference is a sample of lies outside of what is allowed for that.
REFERENCE_DOUBT = 0.001
_HALVINGS = 24


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


class Balls:
    """Several `Allowed`, a row for each: what is held against them is held against all at once, which takes little longer than one.

    Rows are as wide as the widest. What fills up the others weighs nothing: there, shares are 1 and counts 0.
    """

    def __init__(self, each: Sequence[Allowed]) -> None:
        #: How many groups each has (n,), and which places of a row they fill (n, k).
        self.groups = np.array([len(one.expected) for one in each], dtype=np.int64)
        self.filled = np.arange(self.groups.max(initial=0)) < self.groups[:, None]
        self._expected = np.ones(self.filled.shape)
        if each:
            self._expected[self.filled] = np.concatenate([one.expected for one in each])
        self._weights = self._expected * self.filled
        self._constant = (self._weights * np.log(self._expected)).sum(axis=1)
        self._radius = np.array([one.radius for one in each])
        self._one_sided = np.array([one.one_sided for one in each], dtype=bool)

    def rows(self, at: Indices | NDArray[np.bool_]) -> Balls:
        """Return those at these places, in their order."""
        found = Balls.__new__(Balls)
        found.__dict__ = {name: values[at] for name, values in self.__dict__.items()}
        return found

    def shares(self, counts: Floats) -> Floats:
        """Return the shares (n, k) of counts (n, k), each of a row that is not empty."""
        return np.where(self.filled, counts / counts.sum(axis=1, keepdims=True), 1.0)

    def nearer(self, shares: Floats, by: Floats | float) -> Floats:
        """Return shares (n, k) that are moved by so much (n,) of the way to the expected ones."""
        by = np.asarray(by)[..., None]
        return np.asarray((1 - by) * shares + by * self._expected)

    def hold(self, shares: Floats, logarithms: Floats) -> NDArray[np.bool_]:
        """Return (n,) whether each allows these shares (n, k), whose logarithms are known."""
        # The divergence of the expected distribution from them, in nats; inf for groups without any.
        far = self._constant - (self._weights * logarithms).sum(axis=1)
        inside = far <= self._radius
        return np.where(self._one_sided & (shares[:, 1] <= self._expected[:, 1]), True, inside)

    def nearest(self, shares: Floats) -> Floats:
        """Return of all allowed distributions those (n, k) that make counts with these shares (n, k) likeliest.

        They lie on the line to the expected one (the Lagrange condition of the likelihood within a ball of this divergence).
        """
        low, high = np.zeros(len(shares)), np.ones(len(shares))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            between = self.nearer(shares, middle)
            inside = self.hold(between, np.log(between))
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        return self.nearer(shares, high)


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
