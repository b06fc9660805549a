"""The latency model: choose what to measure, fit, predict, and judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from milonga_hub.learning.latency.mix import Mix
from milonga_hub.learning.latency.posterior import Cloud, Measured, judged, sampled, score
from milonga_hub.learning.latency.prior import Prior
from milonga_hub.learning.latency.process import Domain, Draws, Floats, Indices, log_density
from milonga_hub.learning.ranks import spearman

# Networks that choices are taken over, and from.
_JUDGED = 600
_CANDIDATES = 800
_CHUNK = 2000
# 80 % of a normal distribution.
_REACH = 1.2816
# Measurements that what the process says of its own errors counts as.
_BELIEVED = 4.0
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Prediction:
    """Milliseconds: the expected median latency, and an interval that holds 80 % of the networks."""

    median_ms: Floats
    low_ms: Floats
    high_ms: Floats


@dataclass(frozen=True)
class Quality:
    """How good a model is on networks that it has not seen, by leaving each measured one out in turn.

    `trusted` is False where the error is too high to search by, or too few were measured to tell; `further` then says how
    many more networks to measure before judging again.
    """

    held_out_relative_error: float
    spearman: float
    count: int
    trusted: bool
    further: int


#: Above this held-out error (median, relative) a search would choose by chance.
MOST_ERROR = 0.2
_FEWEST = 3
_ENOUGH = 5


@dataclass
class LatencyModel:
    """Predicts the latency of any network on the device that was measured. Made by `fit`."""

    _count: int
    _measured: Measured
    _clouds: Sequence[Cloud]
    _mix: Mix | None
    quality: Quality = field(init=False)
    _share: float = field(init=False, default=0.0)
    #: By how much errors are larger than their variance has it.
    _excess: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        truth, (left_out, variance) = np.log(self._measured.ms), self._left_out()
        if self._mix is not None:
            self._share = self._mix.share(float(np.mean((left_out - truth) ** 2)))
            left_out, variance = self._mixed(left_out, variance, self._mix.left_out, self._mix.variance)
        scaled = float(((left_out - truth) ** 2 / variance).sum())
        self._excess = (_BELIEVED + scaled) / (_BELIEVED + len(truth))
        error = float(np.median(np.abs(np.exp(left_out - truth) - 1.0)))
        self.quality = Quality(error, spearman(left_out, truth), len(truth), *_verdict(error, len(truth)))

    def predict(self, index: Sequence[int] | Indices | None = None) -> Prediction:
        """Return the latencies (m,) of the networks in these rows of the features, all of them where None."""
        at = np.arange(self._count) if index is None else np.asarray(index, dtype=np.int64)
        found = [self._predicted(at[start : start + _CHUNK]) for start in range(0, len(at), _CHUNK)]
        mean = np.concatenate([one[0] for one in found]) if found else np.empty(0)
        reach = _REACH * np.sqrt(self._excess * np.concatenate([one[1] for one in found]) if found else np.empty(0))
        return Prediction(np.exp(mean), np.exp(mean - reach), np.exp(mean + reach))

    def further(self, count: int, candidates: Sequence[int] | Indices) -> Indices:
        """Return which of the candidates (rows of the features) to measure next, at most `count`, by what was measured.

        Those after which all others are known best, as `choose` has it, with the weights of the process that explain this
        device's measurements. Measured ones are never among them.
        """
        known = self._measured.index
        pool = _drawn(np.setdiff1d(np.asarray(candidates, dtype=np.int64), known), count, np.random.default_rng(0))
        cloud = max(self._clouds, key=lambda one: float(one.weights.sum()))
        belief = _Belief.of(cloud.domain, cloud.draws, cloud.weights / cloud.weights.sum())
        judged = _drawn(np.arange(self._count), 0, np.random.default_rng(0), _JUDGED)
        return belief.a_optimal(pool, judged, min(count, len(pool)), known)

    def _predicted(self, at: Indices) -> tuple[Floats, Floats]:
        """Return mean and variance of the logarithm of latency: over all draws, and the mix of sources."""
        mean, variance = self._by_process(at)
        if self._mix is None:
            return mean, variance
        return self._mixed(mean, variance, self._mix.logs[at], self._mix.variance)

    def _mixed(self, mean: Floats, variance: Floats, other: Floats, error: float) -> tuple[Floats, Floats]:
        """Return mean and variance where a share of the process's predictions is replaced by the mix of sources."""
        apart = other - mean
        variance = (1.0 - self._share) * variance + self._share * error
        return mean + self._share * apart, variance + self._share * (1.0 - self._share) * apart**2

    def _by_process(self, at: Indices) -> tuple[Floats, Floats]:
        """Return mean and variance of the logarithm of latency over all draws."""
        mean, square = np.zeros(len(at)), np.zeros(len(at))
        for cloud in self._clouds:
            if not len(cloud.weights):
                continue
            domain, draws = cloud.domain, cloud.draws
            across = draws.kernel(domain.kernels(at, self._measured.index))
            deviation = np.einsum("dqk,dk->dq", across, cloud.found.pulled)
            shrunk = np.einsum("dqk,dqk->dq", across @ cloud.found.inverse, across)
            variance = np.maximum(draws.weights @ domain.diagonals(at) - shrunk, 0.0)
            variance += draws.noise_at(domain.level[at]) * domain.noise_unit(at)
            logs, variance = domain.log_ms(deviation, variance, cloud.scale, at)
            mean += cloud.weights @ logs
            square += cloud.weights @ (logs**2 + variance)
        return mean, np.maximum(square - mean**2, _SMALLEST)

    def _left_out(self) -> tuple[Floats, Floats]:
        """Return mean and variance of the logarithm of each measured latency (k,) as the process predicts it from the others.

        Draws were weighted by all measurements: to leave one out, those that foretell it badly weigh more (importance
        sampling, Gelfand et al. 1992), up to a limit (Ionides 2008).
        """
        index, truth = self._measured.index, np.log(self._measured.ms)

        def under(cloud: Cloud) -> tuple[Floats, Floats]:
            residual, _, _ = cloud.domain.residual(self._measured.ms, index)
            errors, variance = cloud.found.left_out()
            return cloud.domain.log_ms(residual - errors, variance, cloud.scale, index)

        found = [under(cloud) for cloud in self._clouds]
        logs, variance = np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])
        unlikely = -log_density(logs - truth, variance)
        weights = (
            np.exp(unlikely - unlikely.max(axis=0)) * np.concatenate([cloud.weights for cloud in self._clouds])[:, None]
        )
        weights = np.minimum(weights / weights.mean(axis=0), np.sqrt(len(weights)))
        weights /= weights.sum(axis=0)
        mean = (weights * logs).sum(axis=0)
        return mean, np.maximum((weights * (logs**2 + variance)).sum(axis=0) - mean**2, _SMALLEST)


def _verdict(error: float, count: int) -> tuple[bool, int]:
    """Return whether to trust a model, and how many networks more to measure where not."""
    if count < _ENOUGH:
        return False, _ENOUGH - count
    if error <= MOST_ERROR:
        return True, 0
    # Half as many again: enough to move the error, few enough to stop soon after it falls.
    return False, -(-count // 2)


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
    return fitted(Prior(features, source_ms, macs, families), target_index, target_ms)


def fitted(prior: Prior, target_index: Sequence[int] | Indices, target_ms: Sequence[float] | Floats) -> LatencyModel:
    """Fit as `fit` does; a prior can be used for several devices."""
    measured = _checked(target_index, target_ms, prior.count)
    curves = prior.curves()
    mix = Mix.of(curves, measured.index, measured.ms) if curves.shape[1] else None
    return LatencyModel(prior.count, measured, sampled(prior, measured), mix)


def _checked(target_index: Sequence[int] | Indices, target_ms: Sequence[float] | Floats, count: int) -> Measured:
    measured, ms = np.asarray(target_index, dtype=np.int64), np.asarray(target_ms, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != ms.shape:
        raise ValueError(f"target_index has shape {measured.shape}, target_ms {ms.shape}; they must be equal")
    if len(ms) < _FEWEST:
        raise ValueError(f"{len(ms)} measurements are too few to fit a latency model; at least {_FEWEST} are needed")
    if len(measured) and (measured.min() < 0 or measured.max() >= count):
        raise ValueError(f"target_index names rows outside the {count} of features")
    if not np.isfinite(ms).all() or ms.min() <= 0:
        raise ValueError("target_ms holds values that are not finite and above 0 ms")
    return Measured(measured, ms)


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
    `fit`. Raises ValueError where there are fewer than k candidates, or they are no rows.
    """
    return chosen(Prior(features, source_ms, macs, families), k, candidates, seed)


def chosen(prior: Prior, k: int, candidates: Sequence[int] | Indices | None = None, seed: int = 0) -> Indices:
    """Choose as `choose` does; a prior can be used for several devices."""
    random = np.random.default_rng(seed)
    pool = np.arange(prior.count) if candidates is None else np.unique(np.asarray(candidates, dtype=np.int64))
    if not 1 <= k <= len(pool):
        raise ValueError(f"cannot choose {k} of {len(pool)} networks")
    if pool[0] < 0 or pool[-1] >= prior.count:
        raise ValueError(f"candidates name rows outside the {prior.count} of features")
    domain, draws = prior.domains[0], prior.draws[0]
    if not prior.sources.names and np.ptp(domain.trend) > 0:
        return _evenly(domain.trend, pool, k)
    pool = _drawn(pool, k, random)
    scores = score(draws, prior.trials(random.choice(pool, k, replace=False), judged(prior))[0])
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    judged_rows = random.choice(prior.count, min(_JUDGED, prior.count), replace=False)
    return _Belief.of(domain, draws, weights).a_optimal(pool, judged_rows, k)


def _drawn(pool: Indices, count: int, random: np.random.Generator, most: int = _CANDIDATES) -> Indices:
    """Return the pool; of a large one a random part that holds at least `count`."""
    if len(pool) <= most:
        return pool
    return np.sort(random.choice(pool, max(most, count), replace=False))


@dataclass(frozen=True)
class _Belief:
    """The process in one domain, its weights averaged over draws."""

    domain: Domain
    amplitudes: Floats
    noise: float

    @classmethod
    def of(cls, domain: Domain, draws: Draws, weights: Floats) -> _Belief:
        return cls(domain, weights @ draws.weights, float(np.exp(weights @ np.log(draws.noise))))

    def a_optimal(self, pool: Indices, judged: Indices, k: int, known: Indices | None = None) -> Indices:
        """Return k of the pool: each lowers the mean variance of the judged most, after the known and those before it."""
        given = 0 if known is None else len(known)
        rows = pool if known is None else np.concatenate([known, pool])
        among = np.tensordot(self.amplitudes, self.domain.kernels(rows, rows), axes=1)
        across = np.tensordot(self.amplitudes, self.domain.kernels(judged, rows), axes=1)
        found: list[int] = []
        for step in range(given + k):
            variance = np.diag(among) + self.noise
            gain = (across**2).sum(axis=0) / variance
            gain[[*range(given), *found]] = -1.0
            best = step if step < given else int(gain.argmax())
            found.append(best)
            column, reach = among[:, best].copy(), across[:, best].copy()
            among -= np.outer(column, column) / variance[best]
            across -= np.outer(reach, column) / variance[best]
        return rows[found[given:]]


def _evenly(trend: Floats, pool: Indices, k: int) -> Indices:
    """Return the networks of the pool at even steps of the trend, both ends among them."""
    left = list(pool[np.argsort(trend[pool], kind="stable")])
    chosen = []
    for wanted in np.linspace(trend[left[0]], trend[left[-1]], k):
        nearest = int(np.argmin(np.abs(trend[left] - wanted)))
        chosen.append(left.pop(nearest))
    return np.array(chosen, dtype=np.int64)
