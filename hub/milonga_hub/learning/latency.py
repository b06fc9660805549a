"""Latency of any network on a device, from few measurements there and all those taken elsewhere.

A Gaussian process over networks. Other devices say what its prior is: their mean is the trend, and how they deviate from
it is how a new device may. What they do not know comes from costs (MACs, activations and the like, which act as further
devices) and from structure (which choices a network makes). Latencies add up over layers, but errors are relative, so
the process is held in two domains: of latency over its mean, and of its logarithm.

Nobody knows the weights of these parts beforehand. Some hundred sets of them are drawn; each is scored by how well it
would have predicted every known family of devices from the others, then by the evidence of what was measured on the new
device, and predictions are averaged over all sets by these scores (Bayesian model averaging, Hoeting et al. 1999).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import spearmanr

from milonga_hub.learning.prior import STUDENT, Domain, Draws, Floats, Indices, Posterior, Prior, kernel

# How much the scores on other devices count against the evidence on this one.
_TEMPER = 10.0
# Networks that scores and choices are taken over.
_SCORED = 120
_JUDGED = 600
_CANDIDATES = 800
# Draws beyond this share of the weight change nothing that could be seen.
_KEPT_WEIGHT = 0.995
_CHUNK = 2000
_ROBUST_ROUNDS = 3
# 80 % of a normal distribution.
_REACH = 1.2816


@dataclass(frozen=True)
class Prediction:
    """Milliseconds: the expected median latency, and an interval that holds 80 % of the networks."""

    median_ms: Floats
    low_ms: Floats
    high_ms: Floats


def _shares(scores: Sequence[Floats]) -> list[Floats]:
    """Return scores (logarithms) as weights that sum to 1 over all domains."""
    whole = np.concatenate(scores)
    weights = np.exp(whole - whole.max())
    weights /= weights.sum()
    return list(np.split(weights, np.cumsum([len(score) for score in scores])[:-1]))


@dataclass(frozen=True)
class Quality:
    """How good a model is on networks that it has not seen, by leaving each measured one out in turn.

    `trusted` is False where the error is too high to search by; `advice` then says what to do.
    """

    held_out_relative_error: float
    spearman: float
    count: int
    trusted: bool
    advice: str


# Above this held-out error (median, relative) a search would choose by chance.
_MOST_ERROR = 0.2
_FEWEST = 3
_ENOUGH = 5


@dataclass
class LatencyModel:
    """Predicts the latency of any network on the device that was measured. Made by `fit`."""

    _prior: Prior
    _measured: Indices
    _ms: Floats
    _weights: list[Floats]
    _posteriors: list[Posterior]
    _scales: list[float]
    quality: Quality = field(init=False)

    def __post_init__(self) -> None:
        self.quality = self._judged()

    def predict(self, index: Sequence[int] | Indices | None = None) -> Prediction:
        """Return the latencies (m,) of the networks in these rows of the features, all of them where None."""
        at = np.arange(self._prior.count) if index is None else np.asarray(index, dtype=np.int64)
        found = [self._predicted(at[start : start + _CHUNK]) for start in range(0, len(at), _CHUNK)]
        mean = np.concatenate([one[0] for one in found]) if found else np.empty(0)
        reach = _REACH * np.sqrt(np.concatenate([one[1] for one in found]) if found else np.empty(0))
        return Prediction(np.exp(mean), np.exp(mean - reach), np.exp(mean + reach))

    def _predicted(self, at: Indices) -> tuple[Floats, Floats]:
        """Return mean and variance of the logarithm of latency, over all draws."""
        mean, square = np.zeros(len(at)), np.zeros(len(at))
        for domain, draws, weights, found, scale in self._parts():
            kept = _heaviest(weights)
            if not len(kept):
                continue
            share = weights[kept] * (weights.sum() / weights[kept].sum())
            amplitudes = draws.weights[kept]
            across = np.tensordot(amplitudes, domain.kernels(at, self._measured), axes=1)
            deviation = np.einsum("dqk,dk->dq", across, found.pulled[kept])
            shrunk = np.einsum("dqk,dqk->dq", np.matmul(across, found.inverse[kept]), across)
            variance = np.maximum(amplitudes @ domain.diagonals(at) - shrunk, 0.0)
            variance += draws.noise_at(domain.level[at])[kept] * domain.noise_unit(at)
            logs, variance = domain.log_ms(deviation, variance, scale, at)
            mean += share @ logs
            square += share @ (logs**2 + variance)
        return mean, np.maximum(square - mean**2, 1e-12)

    def _parts(self) -> Iterator[tuple[Domain, Draws, Floats, Posterior, float]]:
        prior = self._prior
        return zip(prior.domains, prior.draws, self._weights, self._posteriors, self._scales, strict=True)

    def _judged(self) -> Quality:
        logs = np.zeros(len(self._ms))
        for domain, _, weights, found, scale in self._parts():
            residual, _, _ = domain.residual(self._ms, self._measured)
            errors, _ = found.left_out()
            left_out, _ = domain.log_ms(residual - errors, None, scale, self._measured)
            logs += weights @ left_out
        error = float(np.median(np.abs(np.exp(logs) / self._ms - 1.0)))
        count = len(self._ms)
        return Quality(error, _rank_correlation(logs, self._ms), count, *_verdict(error, count))


def _verdict(error: float, count: int) -> tuple[bool, str]:
    if count < _ENOUGH:
        return False, f"only {count} networks were measured; measure {_ENOUGH - count} more on this device"
    if error > _MOST_ERROR:
        return False, (
            f"half of the measured networks are predicted more than {error:.0%} wrong by the others; measure"
            f" {count} more on this device, with nothing else running on it"
        )
    return True, ""


def _heaviest(weights: Floats) -> Indices:
    """Return the draws that hold nearly all of the weight, heaviest first."""
    order = np.argsort(-weights)
    summed = np.cumsum(weights[order])
    if summed[-1] < 1.0 - _KEPT_WEIGHT:
        return order[:0]
    return order[: int(np.searchsorted(summed, _KEPT_WEIGHT * summed[-1])) + 1]


def _rank_correlation(first: Floats, second: Floats) -> float:
    """Return Spearman's correlation; 0 where one of the two is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def _whole(ms: Floats) -> bool:
    return bool(np.all(ms == np.round(ms)))


def fit(
    features: Floats,
    source_ms: Mapping[str, Floats],
    target_index: Sequence[int] | Indices,
    target_ms: Sequence[float] | Floats,
    *,
    macs: Floats | None = None,
    families: Mapping[str, str] | None = None,
) -> LatencyModel:
    """Fit a model of one device.

    Args:
        features: (n, f), one row a network: choices as one-hot columns or small whole numbers, costs as columns above 0.
        source_ms: measured medians (n,) of other devices in ms, NaN where not measured; may be empty.
        target_index: (k,) rows that were measured on this device, at least 3.
        target_ms: (k,) their medians in ms.
        macs: (n,) multiply-accumulates.
        families: family of each source device; scores are honest only where near relatives share one.

    Raises ValueError where shapes do not fit, latencies are not above 0, or fewer than 3 networks were measured.
    """
    measured, ms = _checked(target_index, target_ms, len(features))
    prior = Prior(features, source_ms, macs, families)
    return _fitted(prior, measured, ms)


def _checked(
    target_index: Sequence[int] | Indices, target_ms: Sequence[float] | Floats, count: int
) -> tuple[Indices, Floats]:
    measured, ms = np.asarray(target_index, dtype=np.int64), np.asarray(target_ms, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != ms.shape:
        raise ValueError(f"target_index has shape {measured.shape}, target_ms {ms.shape}; they must be equal")
    if len(ms) < _FEWEST:
        raise ValueError(f"{len(ms)} measurements are too few to fit a latency model; at least {_FEWEST} are needed")
    if len(measured) and (measured.min() < 0 or measured.max() >= count):
        raise ValueError(f"target_index names rows outside the {count} of features")
    if not np.isfinite(ms).all() or ms.min() <= 0:
        raise ValueError("target_ms holds values that are not finite and above 0 ms")
    return measured, ms


def _fitted(prior: Prior, measured: Indices, ms: Floats) -> LatencyModel:
    judged = np.random.default_rng(0).choice(prior.count, min(_SCORED, prior.count), replace=False)
    scores = [_TEMPER * score for score in prior.scores(measured, judged)]
    inflation = np.ones(len(ms))
    for _ in range(_ROBUST_ROUNDS):
        posteriors, scales, totals = [], [], []
        for domain, draws, score in zip(prior.domains, prior.draws, scores, strict=True):
            residual, scale, jacobian = domain.residual(ms, measured)
            noise = draws.noise_at(domain.level[measured])
            if _whole(ms):
                # A clock of whole milliseconds is off by up to a half.
                noise = noise + (1.0 / np.sqrt(12.0) / ms * domain.level[measured]) ** 2
            noise = noise * domain.noise_unit(measured) * inflation
            found = Posterior.of(kernel(draws, domain.kernels(measured, measured)), noise, residual)
            posteriors.append(found)
            scales.append(scale)
            totals.append(score + found.evidence + jacobian)
        weights = _shares(totals)
        inflation = _inflation(weights, posteriors)
    return LatencyModel(prior, measured, ms, weights, posteriors, scales)


def _inflation(weights: Sequence[Floats], posteriors: Sequence[Posterior]) -> Floats:
    """Return by how much the noise of each measurement is larger than usual: Student's t by reweighting."""
    total = np.zeros(posteriors[0].pulled.shape[1])
    for share, found in zip(weights, posteriors, strict=True):
        error, variance = found.left_out()
        total += share @ (error**2 / variance)
    return (STUDENT + total) / (STUDENT + 1.0)


def choose(
    features: Floats,
    source_ms: Mapping[str, Floats],
    k: int,
    *,
    macs: Floats | None = None,
    families: Mapping[str, str] | None = None,
    candidates: Sequence[int] | Indices | None = None,
    seed: int = 0,
) -> Indices:
    """Return which k networks to measure on a new device: those after which all others are known best.

    Greedily A-optimal: each next one lowers the mean variance of all predictions most. With no other device measured, even
    steps of the trend through costs. `candidates` are the rows to choose from, all where None. Arguments are those of
    `fit`. Raises ValueError where there are fewer than k candidates.
    """
    random = np.random.default_rng(seed)
    pool = np.arange(len(features)) if candidates is None else np.unique(np.asarray(candidates, dtype=np.int64))
    if not 1 <= k <= len(pool):
        raise ValueError(f"cannot choose {k} of {len(pool)} networks")
    prior = Prior(features, source_ms, macs, families)
    domain = prior.domains[0]
    if not prior.sources.names and np.ptp(domain.trend) > 0:
        return _evenly(domain.trend, pool, k)
    if len(pool) > _CANDIDATES:
        pool = np.sort(random.choice(pool, max(_CANDIDATES, k), replace=False))
    judged = random.choice(prior.count, min(_JUDGED, prior.count), replace=False)
    scores = prior.scores(random.choice(pool, k, replace=False), judged[:_SCORED])
    weights = np.exp(_TEMPER * (scores[0] - scores[0].max()))
    weights /= weights.sum()
    amplitudes = weights @ prior.draws[0].weights
    noise = float(np.exp(weights @ np.log(prior.draws[0].noise)))
    return pool[_a_optimal(domain, amplitudes, noise, pool, judged, k)]


def _a_optimal(domain: Domain, amplitudes: Floats, noise: float, pool: Indices, judged: Indices, k: int) -> list[int]:
    among = np.tensordot(amplitudes, domain.kernels(pool, pool), axes=1)
    across = np.tensordot(amplitudes, domain.kernels(judged, pool), axes=1)
    chosen: list[int] = []
    for _ in range(k):
        variance = np.diag(among) + noise
        gain = (across**2).sum(axis=0) / variance
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        column, reach = among[:, best].copy(), across[:, best].copy()
        among -= np.outer(column, column) / variance[best]
        across -= np.outer(reach, column) / variance[best]
    return chosen


def _evenly(trend: Floats, pool: Indices, k: int) -> Indices:
    """Return the networks of the pool at even steps of the trend, both ends among them."""
    left = list(pool[np.argsort(trend[pool], kind="stable")])
    chosen = []
    for wanted in np.linspace(trend[left[0]], trend[left[-1]], k):
        nearest = int(np.argmin(np.abs(trend[left] - wanted)))
        chosen.append(left.pop(nearest))
    return np.array(chosen, dtype=np.int64)
