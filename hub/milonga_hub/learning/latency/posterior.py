"""What a new device's measurements say of the process: weights of its kernel's parts that explain them and known devices.

Weights are drawn from their prior, weighted, drawn again by that, and moved (sequential Monte Carlo with Metropolis moves,
Del Moral et al. 2006): a few hundred draws of a dozen weights would otherwise leave three or four that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from milonga_hub.learning.latency.prior import Prior, Trial
from milonga_hub.learning.latency.process import Domain, Draws, Floats, Indices, Posterior

# Measurements on this device that all trials on known devices count as, at most.
_MOST_COUNTED = 20.0
# Networks that each trial predicts.
_JUDGED = 120
# Draws that go on after the first weighting, and how they move: share of the range of each weight.
_KEPT = 200
_MOVES = 4
_REACH = 0.1


@dataclass(frozen=True)
class Cloud:
    """Draws in one domain, their weights (summing to 1 over both domains), and what was measured under each."""

    domain: Domain
    draws: Draws
    found: Posterior
    scale: float
    #: Logarithm of the posterior density (draws,).
    density: Floats
    weights: Floats


@dataclass(frozen=True)
class Measured:
    """Networks (k,) that were measured on the new device, and their medians in ms (k,)."""

    index: Indices
    ms: Floats

    def cloud(self, domain: Domain, draws: Draws, trials: Sequence[Trial]) -> Cloud:
        residual, scale, jacobian = domain.residual(self.ms, self.index)
        level = domain.level[self.index]
        noise = draws.noise_at(level)
        if np.all(self.ms == np.round(self.ms)):
            # A clock of whole milliseconds is off by up to a half.
            noise = noise + (level / np.sqrt(12.0) / self.ms) ** 2
        noise = noise * domain.noise_unit(self.index)
        found = Posterior.robust(draws.kernel(domain.kernels(self.index, self.index)), noise, residual)
        density = found.evidence + jacobian + score(draws, trials)
        return Cloud(domain, draws, found, scale, density, np.zeros(len(density)))


def score(draws: Draws, trials: Sequence[Trial]) -> Floats:
    """Return the logarithm of what known devices say for each draw (draws,), up to a constant.

    Kinds of device differ, and each pair of them is an example of how: a trial counts as many measurements on this device as
    there are other kinds, as long as all together are not too many for what was measured here to be heard.
    """
    total = np.zeros(len(draws.noise))
    for trial in trials:
        total += min(len(trials) - 1.0, _MOST_COUNTED / len(trials)) * trial.score(draws)
    return total


def judged(prior: Prior) -> Indices:
    """Return the networks that trials predict: the same ones every time."""
    return np.random.default_rng(0).choice(prior.count, min(_JUDGED, prior.count), replace=False)


def sampled(prior: Prior, measured: Measured) -> list[Cloud]:
    """Return one cloud a domain; a domain that explains little has an empty one."""
    trials = prior.trials(measured.index, judged(prior))
    random = np.random.default_rng(0)
    clouds = weighted(
        [
            measured.cloud(domain, draws, some)
            for domain, draws, some in zip(prior.domains, prior.draws, trials, strict=True)
        ]
    )
    kept = _resampled(clouds, random)
    moved = [
        _moved(measured, domain, prior.draws[number].taken(rows), trials[number], random)
        for number, (domain, rows) in enumerate(zip(prior.domains, kept, strict=True))
    ]
    return [replace(cloud, weights=np.full(len(cloud.density), 1.0 / _KEPT)) for cloud in moved]


def weighted(clouds: Sequence[Cloud]) -> list[Cloud]:
    """Return the clouds weighted by their densities, over all domains."""
    whole = np.concatenate([cloud.density for cloud in clouds])
    weights = np.exp(whole - whole.max())
    weights /= weights.sum()
    shares = np.split(weights, np.cumsum([len(cloud.density) for cloud in clouds])[:-1])
    return [replace(cloud, weights=share) for cloud, share in zip(clouds, shares, strict=True)]


def _resampled(clouds: Sequence[Cloud], random: np.random.Generator) -> list[Indices]:
    """Return for each cloud which of its draws go on, _KEPT over all (systematic resampling)."""
    summed = np.cumsum(np.concatenate([cloud.weights for cloud in clouds]))
    chosen = np.searchsorted(summed, (np.arange(_KEPT) + random.uniform()) / _KEPT * summed[-1])
    ends = np.cumsum([0, *(len(cloud.weights) for cloud in clouds)])
    return [chosen[(chosen >= start) & (chosen < stop)] - start for start, stop in pairwise(ends)]


def _moved(
    measured: Measured,
    domain: Domain,
    draws: Draws,
    trials: Sequence[Trial],
    random: np.random.Generator,
) -> Cloud:
    cloud = measured.cloud(domain, draws, trials)
    for _ in range(_MOVES if len(draws.noise) else 0):
        other = cloud.draws.moved(_REACH, random)
        tried = measured.cloud(domain, other, trials)
        accepted = np.log(random.uniform(size=len(cloud.density))) < tried.density - cloud.density
        cloud = _replaced(cloud, accepted, tried)
    return cloud


def _replaced(cloud: Cloud, where: NDArray[np.bool_], other: Cloud) -> Cloud:
    return replace(
        cloud,
        draws=cloud.draws.replaced(where, other.draws),
        found=cloud.found.replaced(where, other.found),
        density=np.where(where, other.density, cloud.density),
    )
