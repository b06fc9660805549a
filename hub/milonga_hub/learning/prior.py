"""What is believed of a new device before it is measured: a Gaussian process, drawn many times and scored on known devices.

The parts of its kernel are how known devices deviate from their mean (Domain), costs and structure; Draws are sets of
weights of these parts; Prior holds both, and scores each draw by how well it predicts every family from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milonga_hub.learning.structure import Structure, squared_distances
from milonga_hub.learning.surrogate import Surrogates

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Sets of weights that are tried in each domain.
_DRAWS = 300
# Degrees of freedom of measurement errors: outliers are common where phones grow hot.
STUDENT = 4.0

# Ranges of the weights, as variances relative to the squared latency; drawn uniformly in their logarithm.
_RANGES = {
    "mean": (1e-2, 0.3),
    "devices": (0.3, 10.0),
    "rest": (0.1, 3.0),
    "costs": (1e-3, 1.0),
    "choices": (1e-5, 0.1),
    "counts": (1e-5, 0.1),
    "near": (1e-5, 0.1),
    "far": (1e-5, 0.1),
    "noise": (3e-5, 0.1),
}
_CONSTANT = {"log": (10.0, 10.0), "linear": (1e-3, 1e-1)}
_LENGTHS = {"near": 1.0, "far": 2.5}


class Draws:
    """Sets of weights for one domain: one row a set, one column a part of the kernel; and their noise."""

    def __init__(self, domain: str, parts: Sequence[str], count: int) -> None:
        random = np.random.default_rng(1 if domain == "log" else 2)

        def drawn(low: float, high: float) -> Floats:
            return np.exp(random.uniform(np.log(low), np.log(high), count))

        ranges = {**_RANGES, "constant": _CONSTANT[domain]}
        self.weights = np.stack([drawn(*ranges[part]) for part in parts], axis=1)
        self.noise = drawn(*_RANGES["noise"])
        # Share of the noise that does not grow with latency: schedulers and clocks cost the same for each network.
        self.fixed = random.uniform(0.0, 0.9, count) ** 2

    def noise_at(self, level: Floats) -> Floats:
        """Return noise variances (draws, networks); `level` is latency over its mean."""
        return self.noise[:, None] * ((1 - self.fixed)[:, None] * level**2 + self.fixed[:, None])


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
        for part in ("choices", "counts"):
            if (factor := getattr(structure, part)).shape[1]:
                self._factors[part] = factor
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

    def log_ms(self, deviation: Floats, variance: Floats | None, scale: float, at: Indices) -> tuple[Floats, Floats]:
        """Return the logarithm of latency, and its variance, of deviations (draws, at) from the trend."""
        if self.name == "log":
            return deviation + self.trend[at] + np.log(scale), variance if variance is not None else np.zeros(1)
        # No network takes a tenth of what all other devices say.
        level = np.maximum(deviation + self.trend[at], 0.1 * self.trend[at])
        return np.log(level * scale), variance / level**2 if variance is not None else np.zeros(1)


@dataclass
class Posterior:
    """What measurements say for each draw: evidence, and weights of the measured networks' kernels."""

    inverse: Floats
    pulled: Floats
    evidence: Floats

    @classmethod
    def of(cls, kernel: Floats, noise: Floats, residual: Floats) -> Posterior:
        """`kernel` (draws, k, k), `noise` (draws, k), `residual` (k,)."""
        count = len(residual)
        whole = kernel.copy()
        whole[:, range(count), range(count)] += noise + 1e-10
        inverse = np.linalg.inv(whole)
        pulled = inverse @ residual
        evidence = -0.5 * (pulled @ residual) - 0.5 * np.linalg.slogdet(whole)[1]
        return cls(inverse, pulled, evidence)

    def left_out(self) -> tuple[Floats, Floats]:
        """Return error and variance (draws, k) of each measurement as the others predict it (Rasmussen 2006, 5.12)."""
        variance = 1.0 / np.diagonal(self.inverse, axis1=1, axis2=2)
        return self.pulled * variance, variance


def _student_log_density(error: Floats, variance: Floats) -> Floats:
    return -0.5 * (STUDENT + 1) * np.log1p(error**2 / (STUDENT * variance)) - 0.5 * np.log(variance)


def kernel(draws: Draws, kernels: Floats) -> Floats:
    return np.tensordot(draws.weights, kernels, axes=1)


class Prior:
    """All that is known before the device is measured: domains, draws, and how each draw did on other families."""

    def __init__(
        self, features: Floats, source_ms: Mapping[str, Floats], macs: Floats | None, families: Mapping[str, str] | None
    ) -> None:
        self.structure = Structure.of(features, macs)
        self.count = len(self.structure.choices)
        known = {name: np.asarray(ms, dtype=np.float64) for name, ms in source_ms.items()}
        for name, ms in known.items():
            if ms.shape != (self.count,):
                raise ValueError(f"source {name!r} has shape {ms.shape}; there are {self.count} networks")
            if np.any(ms <= 0):
                raise ValueError(f"source {name!r} has latencies that are not above 0 ms; use NaN where not measured")
        sources = Surrogates(self.structure, {name: ms for name, ms in known.items() if np.isfinite(ms).sum() >= 3})
        self.sources = sources
        self.families = [(families or {}).get(name, name) for name in sources.names]
        self.domains = [self._domain(name, range(len(sources.names))) for name in ("log", "linear")]
        self.draws = [Draws(domain.name, domain.parts, _DRAWS) for domain in self.domains]

    def _domain(self, name: str, kept: Sequence[int]) -> Domain:
        kept = list(kept)
        return Domain(name, self.structure, self.sources.smooth[:, kept], self.sources.rest[:, kept])

    def scores(self, measured: Indices, judged: Indices) -> list[Floats]:
        """Return for each domain how well its draws predict each family from the others (mean log density a family).

        As if that family were new and measured on `measured`; predictions are judged on `judged`.
        """
        totals = [np.zeros(len(draws.noise)) for draws in self.draws]
        families = sorted(set(self.families))
        if len(families) < 2:
            return totals
        for family in families:
            left_out = [row for row, one in enumerate(self.families) if one == family]
            kept = [row for row, one in enumerate(self.families) if one != family]
            for number, draws in enumerate(self.draws):
                domain = self._domain(self.domains[number].name, kept)
                totals[number] += self._score(domain, draws, left_out, measured, judged) / len(families)
        return totals

    def _score(self, domain: Domain, draws: Draws, left_out: list[int], measured: Indices, judged: Indices) -> Floats:
        known = kernel(draws, domain.kernels(measured, measured))
        across = kernel(draws, domain.kernels(judged, measured))
        prior = draws.weights @ domain.diagonals(judged)
        noise = draws.noise_at(domain.level[measured]) * domain.noise_unit(measured)
        noise_judged = draws.noise_at(domain.level[judged]) * domain.noise_unit(judged)
        total = np.zeros(len(draws.noise))
        for row in left_out:
            ms = np.exp(self.sources.smooth[:, row] + self.sources.rest[:, row])
            residual, scale, _ = domain.residual(ms[measured], measured)
            found = Posterior.of(known, noise, residual)
            mean = np.einsum("dqk,dk->dq", across, found.pulled)
            shrunk = np.einsum("dqk,dkl,dql->dq", across, found.inverse, across, optimize=True)
            variance = np.maximum(prior - shrunk, 1e-9) + noise_judged
            if domain.name == "log":
                error, jacobian = np.log(ms[judged] / scale) - domain.trend[judged] - mean, 0.0
            else:
                error = ms[judged] / scale - domain.trend[judged] - mean
                jacobian = np.log(ms[judged] / scale)
            total += (_student_log_density(error, variance) + jacobian).mean(axis=1) / len(left_out)
        return total
