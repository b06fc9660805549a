"""A Gaussian process over networks, for many sets of weights of its kernel's parts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milonga_hub.learning.latency.slotwise import Slotwise
from milonga_hub.learning.latency.structure import Structure, squared_distances

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Sets of weights that are tried in each domain.
_DRAWS = 300
_MOST_FIXED = 0.9
# Degrees of freedom of errors: of what is predicted, and of what is measured. A phone that grows hot may take twice as long for one
# network in ten, and choices are few: what one of them says against all others counts for little.
_PREDICTED_FREEDOM = 4.0
_MEASURED_FREEDOM = 1.0
_ROBUST_ROUNDS = 5
_SMALLEST = 1e-12

# Ranges of the weights, drawn uniformly in their logarithm: variances relative to the squared latency, or, of what known devices
# and costs say (mean, devices, rest, costs, gains, mixes, values), relative to that. Those of slots end far
# above 1: a new kind of device may differ from all known ones by much more than these do among each other.
_RANGES = {
    "mean": (1e-2, 0.3),
    "devices": (0.3, 10.0),
    "rest": (0.1, 3.0),
    "costs": (1e-3, 1.0),
    "choices": (1e-5, 0.1),
    "counts": (1e-5, 0.1),
    "weighed": (1e-5, 0.1),
    "gains": (0.03, 30.0),
    "mixes": (0.03, 10.0),
    "values": (0.01, 1.0),
    "near": (1e-5, 0.1),
    "far": (1e-5, 0.1),
    "noise": (3e-5, 0.1),
}
_CONSTANT = {"log": (10.0, 10.0), "linear": (1e-3, 1e-1)}
# Where all known devices are of one family, nothing tells how far another may differ slot by slot, and a noisy one tells less than nothing.
_SLOTS = ("gains", "mixes", "values")
_UNTOLD = 0.3
_LENGTHS = {"near": 1.0, "far": 2.5}


class Draws:
    """Sets of weights for one domain: one row a set, one column a part of the kernel; and their noise."""

    def __init__(self, ranges: Floats, positions: Floats) -> None:
        """`positions` (draws, parts + 2), 0 to 1: where the weights, the noise and its fixed share lie in their `ranges` (parts + 1, 2)."""
        self.positions, self._ranges = positions, ranges
        low, high = np.log(ranges).T
        drawn = np.exp(low + (high - low) * positions[:, :-1])
        self.weights, self.noise = drawn[:, :-1], drawn[:, -1]
        # Share of the noise that does not grow with latency: schedulers and clocks cost the same for each network.
        self.fixed = (_MOST_FIXED * positions[:, -1]) ** 2

    @classmethod
    def first(cls, domain: str, parts: Sequence[str], family_count: int) -> Draws:
        """Return draws from the prior, the same ones every time; known devices are of so many families."""
        ranges = {part: np.array(_RANGES.get(part) or _CONSTANT[domain]) for part in (*parts, "noise")}
        if family_count < 2:
            ranges |= {part: _UNTOLD * ranges[part] for part in _SLOTS if part in ranges}
        random = np.random.default_rng(1 if domain == "log" else 2)
        return cls(np.array([*ranges.values()]), random.uniform(size=(_DRAWS, len(parts) + 2)))

    def taken(self, rows: Indices) -> Draws:
        return Draws(self._ranges, self.positions[rows])

    def moved(self, reach: float, random: np.random.Generator) -> Draws:
        """Return draws beside these, reflected at the ends of their ranges (a symmetric proposal)."""
        moved = np.abs(self.positions + random.normal(0.0, reach, self.positions.shape)) % 2.0
        return Draws(self._ranges, np.where(moved > 1.0, 2.0 - moved, moved))

    def replaced(self, where: NDArray[np.bool_], other: Draws) -> Draws:
        return Draws(self._ranges, np.where(where[:, None], other.positions, self.positions))

    def kernel(self, parts: Floats) -> Floats:
        """Return (draws, left, right) of the kernel's parts (parts, left, right)."""
        return np.asarray(np.tensordot(self.weights, parts, axes=1))

    def noise_at(self, level: Floats) -> Floats:
        """Return noise variances (draws, networks); `level` is latency over its mean."""
        shape = (1 - self.fixed)[:, None] * level**2 + self.fixed[:, None]
        return np.asarray(self.noise[:, None] * shape)


class Domain:
    """The prior in one domain, given some of the sources: the trend and the parts of the kernel."""

    def __init__(self, name: str, structure: Structure, smooth: Floats, rest: Floats) -> None:
        """`smooth`, `rest` (n, devices): logarithms of source latencies as their structure explains them, and the rest."""
        self.name = name
        count = len(structure.choices)
        log = smooth - smooth.mean(axis=0)
        costs = np.log(structure.costs) - np.log(structure.costs).mean(axis=0)
        if name == "linear":
            scale = np.exp(log).mean(axis=0)
            rest = (np.exp(log + rest) - np.exp(log)) / scale
            log = np.exp(log) / scale
            costs = np.exp(costs) / np.exp(costs).mean(axis=0)
        trends = log if log.shape[1] else costs
        flat = np.ones(count) if name == "linear" else np.zeros(count)
        self.trend = trends.mean(axis=1) if trends.shape[1] else flat
        #: Latency over its mean.
        self.level = self.trend if name == "linear" else np.exp(self.trend)
        self._factors: dict[str, Floats] = {"constant": np.ones((count, 1))}
        if trends.shape[1]:
            slope = self.trend if name == "linear" else self.trend - self.trend.mean()
            self._factors["mean"] = slope[:, None]
        if log.shape[1]:
            self._factors["devices"] = (log - self.trend[:, None]) / np.sqrt(log.shape[1])
            self._factors["rest"] = rest / np.sqrt(log.shape[1])
        if costs.shape[1]:
            self._factors["costs"] = (costs - self.trend[:, None]) / np.sqrt(costs.shape[1])
        if structure.choices.shape[1]:
            self._factors["choices"] = structure.choices
        if structure.slots.shape[1]:
            self._factors["counts"] = structure.counts()
            if np.ptp(self.level) > 0:
                self._factors["weighed"] = structure.weighed(self.level)
            if log.shape[1]:
                slotwise = Slotwise(structure, log, costs)
                self._factors |= {"gains": slotwise.gains(), "mixes": slotwise.mixes(), "values": slotwise.values()}
        self._choices = structure.choices

    @property
    def parts(self) -> list[str]:
        return [*self._factors, *(_LENGTHS if self._choices.shape[1] else ())]

    def kernels(self, left: Indices, right: Indices) -> Floats:
        """Return (parts, left, right)."""
        found = [factor[left] @ factor[right].T for factor in self._factors.values()]
        if self._choices.shape[1]:
            distances = squared_distances(self._choices[left], self._choices[right])
            found += [np.exp(-distances / (2 * length**2)) for length in _LENGTHS.values()]
        return np.stack(found)

    def diagonals(self, at: Indices) -> Floats:
        """Return (parts, at)."""
        found = [(factor[at] ** 2).sum(axis=1) for factor in self._factors.values()]
        if self._choices.shape[1]:
            found += [np.ones(len(at)) for _ in _LENGTHS]
        return np.stack(found)

    def residual(self, ms: Floats, at: Indices) -> tuple[Floats, float, float]:
        """Return measured latencies as deviations from the trend, their scale in ms, and the log density's Jacobian."""
        if self.name == "log":
            scale = float(np.exp(np.mean(np.log(ms) - self.trend[at])))
            return np.log(ms / scale) - self.trend[at], scale, -float(np.log(ms).sum())
        scale = float(np.exp(np.mean(np.log(ms) - np.log(self.trend[at]))))
        return ms / scale - self.trend[at], scale, -len(ms) * float(np.log(scale))

    def noise_unit(self, at: Indices) -> Floats:
        """Return what turns a noise variance of latency over its mean into one of this domain."""
        return np.ones(len(at)) if self.name == "linear" else self.level[at] ** -2

    def log_ms(self, deviation: Floats, variance: Floats, scale: float, at: Indices) -> tuple[Floats, Floats]:
        """Return the logarithm of latency, and its variance, of deviations (draws, at) from the trend."""
        if self.name == "log":
            return deviation + self.trend[at] + np.log(scale), variance
        # No network takes a tenth of what all other devices say.
        level = np.maximum(deviation + self.trend[at], 0.1 * self.trend[at])
        return np.log(level * scale), variance / level**2


def log_density(error: Floats, variance: Floats) -> Floats:
    """Return the logarithm of how likely an error of a prediction of that variance is, by Student's t, up to a constant."""
    far = np.log1p(error**2 / (_PREDICTED_FREEDOM * variance))
    return np.asarray(-0.5 * (_PREDICTED_FREEDOM + 1.0) * far - 0.5 * np.log(variance))


@dataclass
class Posterior:
    """What measurements say for each draw: evidence, and weights of the measured networks' kernels."""

    inverse: Floats
    pulled: Floats
    evidence: Floats
    #: Variance (draws, k) that the noise of each measurement has beyond that of the usual one.
    excess: Floats

    @classmethod
    def robust(cls, kernel: Floats, noise: Floats, residual: Floats) -> Posterior:
        """Explain `residual` (k,) by `kernel` (draws, k, k) and errors of Student's t, of variances `noise` (draws, k).

        Each draw by itself makes less of a measurement that it cannot explain, at a price: little noise and an outlier may
        explain all of them better than much noise. By expectation maximisation (Lange et al. 1989, section 3).
        """
        square = noise
        for _ in range(_ROBUST_ROUNDS):
            weights = (_MEASURED_FREEDOM + 1.0) / (_MEASURED_FREEDOM + square / noise)
            own = noise / weights
            inverse = cls.inverted(kernel, own)
            pulled = inverse @ residual
            square = (own * pulled) ** 2 + own - own**2 * np.diagonal(inverse, axis1=1, axis2=2)
        evidence = 0.5 * np.linalg.slogdet(inverse)[1] - 0.5 * (pulled @ residual)
        evidence += 0.5 * _MEASURED_FREEDOM * (np.log(weights) - weights).sum(axis=1)
        return cls(inverse, pulled, evidence, own - noise)

    @staticmethod
    def inverted(kernel: Floats, noise: Floats) -> Floats:
        """Return the inverse covariance (draws, k, k) of noisy measurements."""
        whole = kernel.copy()
        count = kernel.shape[1]
        whole[:, range(count), range(count)] += noise + 1e-10
        return np.asarray(np.linalg.inv(whole))

    def replaced(self, where: NDArray[np.bool_], other: Posterior) -> Posterior:
        return Posterior(
            np.where(where[:, None, None], other.inverse, self.inverse),
            np.where(where[:, None], other.pulled, self.pulled),
            np.where(where, other.evidence, self.evidence),
            np.where(where[:, None], other.excess, self.excess),
        )

    def left_out(self) -> tuple[Floats, Floats]:
        """Return error and variance (draws, k) of each measurement as the others predict it (Rasmussen 2006, 5.12)."""
        variance = 1.0 / np.diagonal(self.inverse, axis1=1, axis2=2)
        return self.pulled * variance, np.maximum(variance - self.excess, _SMALLEST)
