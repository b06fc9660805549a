"""How well latencies of a new device would have been predicted, told on devices that are known; and by simpler peers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from milonga_hub.learning.latency.model import chosen, fitted
from milonga_hub.learning.latency.prior import Prior
from milonga_hub.learning.latency.process import Floats, Indices
from milonga_hub.learning.latency.structure import Structure
from milonga_hub.learning.latency.surrogate import Surrogates
from milonga_hub.learning.ranks import spearman


@dataclass(frozen=True)
class Networks:
    """What is known of networks: features (n, f), medians in ms {device: (n,)}, and where known MACs (n,)."""

    features: Floats
    latency_ms: Mapping[str, Floats]
    macs: Floats | None = None
    families: Mapping[str, str] = field(default_factory=dict)

    def family(self, device: str) -> str:
        return self.families.get(device, device)


@dataclass(frozen=True)
class Split:
    """One question: this device is new, those are known; `train` rows may be measured, `test` rows are predicted."""

    target: str
    sources: Sequence[str]
    train: Indices
    test: Indices


@dataclass(frozen=True)
class Score:
    """How well the test networks were predicted.

    `within` is the share whose prediction is off by at most 10 %, `coverage` the share inside the 80 % interval.
    """

    spearman: float
    within: float
    coverage: float
    seconds: float


def others(networks: Networks, target: str) -> list[str]:
    """Return the devices of all other families."""
    return [one for one in networks.latency_ms if networks.family(one) != networks.family(target)]


def known_ms(networks: Networks, split: Split) -> dict[str, Floats]:
    """Return what the sources measured on the training rows, NaN elsewhere: test networks are new to every device."""
    hidden = np.ones(len(networks.features), dtype=bool)
    hidden[split.train] = False
    return {one: np.where(hidden, np.nan, networks.latency_ms[one]) for one in split.sources}


def trials(networks: Networks, split: Split, ks: Sequence[int], seeds: Sequence[int]) -> Iterator[tuple[int, Score]]:
    """Yield (k, score) of each k and seed: choose k of the training rows, measure them on the target, predict the rest."""
    rows, split = _among(networks, split)
    began = time.perf_counter()
    prior = Prior(rows.features, known_ms(rows, split), rows.macs, rows.families)
    shared = time.perf_counter() - began
    for k in ks:
        for seed in seeds:
            yield k, _trial(prior, rows.latency_ms[split.target], split, k, seed, shared)


def _trial(prior: Prior, wanted: Floats, split: Split, k: int, seed: int, shared_seconds: float) -> Score:
    began = time.perf_counter()
    index = chosen(prior, k, split.train, seed)
    found = fitted(prior, index, wanted[index]).predict(split.test)
    seconds = time.perf_counter() - began + shared_seconds
    truth = wanted[split.test]
    inside = (truth >= found.low_ms) & (truth <= found.high_ms)
    return Score(*agreement(found.median_ms, truth), float(inside.mean()), seconds)


def agreement(predicted: Floats, truth: Floats) -> tuple[float, float]:
    """Return Spearman's correlation (0 where either is constant) and the share within 10 % of the truth."""
    within = float(np.mean(np.abs(predicted / truth - 1.0) <= 0.1))
    return spearman(predicted, truth), within


def _among(networks: Networks, split: Split) -> tuple[Networks, Split]:
    """Return the rows of the split alone: others are not even known to exist."""
    kept = np.union1d(split.train, split.test)
    rows = Networks(
        networks.features[kept],
        {one: ms[kept] for one, ms in networks.latency_ms.items()},
        None if networks.macs is None else networks.macs[kept],
        networks.families,
    )
    train, test = np.searchsorted(kept, split.train), np.searchsorted(kept, split.test)
    return rows, Split(split.target, split.sources, train, test)


def gain_on_macs(macs: Floats, index: Indices, ms: Floats) -> Floats:
    """Return the latencies (n,) in ms of all networks as MACs times the median gain (ms a MAC)."""
    return np.asarray(macs * float(np.median(ms / macs[index])))


class MixPeer:
    """The mix of source devices, with weights of 0 and more, that fits measurements with least squared error."""

    def __init__(self, networks: Networks, split: Split) -> None:
        rows, self._split = _among(networks, split)
        sources = Surrogates(Structure.of(rows.features, rows.macs), known_ms(rows, split))
        self._curves, self._ms = np.exp(sources.smooth), rows.latency_ms[split.target]

    def agreement(self, k: int, seed: int) -> tuple[float, float]:
        """Return Spearman's correlation and the share within 10 %, after k measurements drawn by chance."""
        index = np.random.default_rng(seed).choice(self._split.train, k, replace=False)
        weights, _ = nnls(self._curves[index], self._ms[index])
        test = self._split.test
        return agreement(np.maximum(self._curves[test] @ weights, 1e-9), self._ms[test])


# What a trial takes at most: enough to tell devices apart, few enough to wait for.
_MOST_TRAIN, _MOST_TEST = 1000, 2000


def left_out(networks: Networks, target: str, seed: int = 0) -> Split:
    """Return the split that predicts one device from those of other families.

    Half of the networks that it measured, drawn by chance, are known; the other half is new to all devices.
    """
    measured = np.flatnonzero(np.isfinite(networks.latency_ms[target]))
    drawn = np.random.default_rng(seed).permutation(measured)
    half = len(drawn) // 2
    train, test = drawn[:half][:_MOST_TRAIN], drawn[half:][:_MOST_TEST]
    return Split(target, others(networks, target), np.sort(train), np.sort(test))
