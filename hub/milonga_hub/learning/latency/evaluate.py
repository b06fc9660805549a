"""How well latencies of a new device would have been predicted, told on devices that are known; and by simpler peers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from milonga_hub.learning.latency.model import choose, fit
from milonga_hub.learning.latency.process import Floats, Indices
from milonga_hub.learning.latency.structure import Structure
from milonga_hub.learning.latency.surrogate import Surrogates


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


def trial(networks: Networks, split: Split, k: int, seed: int = 0) -> Score:
    """Choose k of the training rows, measure them on the target, predict the test rows."""
    rows, split = _among(networks, split)
    sources = known_ms(rows, split)
    began = time.perf_counter()
    more = {"macs": rows.macs, "families": rows.families}
    index = choose(rows.features, sources, k, candidates=split.train, seed=seed, **more)  # type: ignore[arg-type]
    wanted = rows.latency_ms[split.target]
    model = fit(rows.features, sources, index, wanted[index], **more)  # type: ignore[arg-type]
    found = model.predict(split.test)
    seconds = time.perf_counter() - began
    truth = wanted[split.test]
    inside = (truth >= found.low_ms) & (truth <= found.high_ms)
    return Score(*agreement(found.median_ms, truth), float(inside.mean()), seconds)


def agreement(predicted: Floats, truth: Floats) -> tuple[float, float]:
    """Return Spearman's correlation (0 where either is constant) and the share within 10 % of the truth."""
    within = float(np.mean(np.abs(predicted / truth - 1.0) <= 0.1))
    if np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return 0.0, within
    return float(spearmanr(predicted, truth).statistic), within


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
    """Return the latencies (n,) in ms of all networks as MACs times the gain with least squared error."""
    return np.asarray(macs * float(macs[index] @ ms / (macs[index] @ macs[index])))


def mix_of_sources(networks: Networks, split: Split, k: int, seed: int) -> tuple[float, float]:
    """Return the agreement of the mix of sources with weights above 0 that fits k training rows drawn by chance best."""
    rows, split = _among(networks, split)
    curves = np.exp(Surrogates(Structure.of(rows.features, rows.macs), known_ms(rows, split)).smooth)
    index = np.random.default_rng(seed).choice(split.train, k, replace=False)
    wanted = rows.latency_ms[split.target]
    weights, _ = nnls(curves[index], wanted[index])
    return agreement(np.maximum(curves[split.test] @ weights, 1e-9), wanted[split.test])
