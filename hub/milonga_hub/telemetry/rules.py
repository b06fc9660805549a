"""When telemetry has drifted from what a model was verified on. Pure: counts in, signals out.

A signal has drifted when two things hold. The shift is large: its population stability index, freed of the bias of
small samples, is above the policy's threshold. And it is not chance: a chi-squared test of the same bins gives p below
MAX_P_VALUE. Neither alone is enough: a test on many samples finds shifts that do not matter, and the index of few
samples is large by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
from milonga.embeddings import EMBEDDING
from numpy.typing import NDArray
from scipy.special import gammaincc

from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import Histogram, Percentiles

# Eight signals are judged at every window of every device: at 0.001 chance alone would still raise some alarms, but the
# index has to be above its threshold too; together they stay below one in a hundred (tests/telemetry/test_rules.py).
MAX_P_VALUE = 0.001
# Bins are merged until each holds this share of all counts, so that no sparse bin decides.
MIN_BIN_SHARE = 0.05
# The usual condition for the chi-squared approximation.
MIN_EXPECTED_COUNT = 5.0
CLASSES = "classes"
CONFIDENCE = "confidence"
INPUT_SIGNALS = ("brightness", "contrast", "sharpness", "chroma", "warmth", EMBEDDING)
# Their bins have no order: neighbours are no more alike than others.
UNORDERED = frozenset((CLASSES, EMBEDDING))
# What retraining answers; a slow or failing device it does not.
SIGNALS = (CONFIDENCE, *INPUT_SIGNALS, CLASSES)
LATENCY = "latency"
ERRORS = "errors"


class Observed(Protocol):
    """What drift is judged on: a telemetry window, whichever its class."""

    confidence: Histogram | None
    class_counts: list[int]
    inputs: dict[str, Histogram]
    request_count: int
    error_count: int


@dataclass(frozen=True)
class Comparison:
    """How far counts are from the reference."""

    psi: float
    p_value: float


@dataclass(frozen=True)
class Signal:
    """One thing that has drifted."""

    name: str
    statistic: float
    threshold: float
    p_value: float
    sample_count: int
    message: str
    # None where the method does not tell.
    began_at: datetime | None = None


def compare(reference: Sequence[int], observed: Sequence[int], *, ordered: bool = True) -> Comparison:
    """Return index and p-value of two sets of counts over the same bins; (0, 1) where nothing can be said.

    `ordered` bins are merged with their neighbours, others (classes) with other sparse ones.
    """
    expected, seen = _merged(np.asarray(reference, np.float64), np.asarray(observed, np.float64), ordered)
    if len(expected) < 2:
        return Comparison(0.0, 1.0)
    return Comparison(_unbiased_psi(expected, seen), _chi_squared_p(expected, seen))


def _unbiased_psi(reference: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    """The index minus what it is on average for two samples of one distribution, (bins - 1)(1/n + 1/m)."""
    bins = len(reference)
    # Half a count in each bin keeps the logarithm finite where one side is empty.
    p = (reference + 0.5) / (reference.sum() + 0.5 * bins)
    q = (observed + 0.5) / (observed.sum() + 0.5 * bins)
    psi = float(((q - p) * np.log(q / p)).sum())
    return max(0.0, psi - (bins - 1) * float(1.0 / reference.sum() + 1.0 / observed.sum()))


def _chi_squared_p(reference: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    """Homogeneity of two samples: both are uncertain, the reference too."""
    m, n = reference.sum(), observed.sum()
    pooled = (reference + observed) / (m + n)
    statistic = ((reference - m * pooled) ** 2 / (m * pooled) + (observed - n * pooled) ** 2 / (n * pooled)).sum()
    return float(gammaincc((len(reference) - 1) / 2.0, statistic / 2.0))


def _merged(
    reference: NDArray[np.float64], observed: NDArray[np.float64], ordered: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Merge bins until each is expected to hold enough on both sides; bins are chosen on the sum of both."""
    m, n = reference.sum(), observed.sum()
    if len(reference) != len(observed) or m <= 0 or n <= 0:
        return np.zeros(0), np.zeros(0)
    pooled = reference + observed
    enough = max(MIN_BIN_SHARE * (m + n), MIN_EXPECTED_COUNT * (m + n) / min(m, n))
    order = np.arange(len(pooled)) if ordered else np.argsort(-pooled, kind="stable")
    groups: list[list[int]] = [[]]
    for index in order:
        if pooled[groups[-1]].sum() >= enough:
            groups.append([])
        groups[-1].append(int(index))
    if len(groups) > 1 and pooled[groups[-1]].sum() < enough:
        rest = groups.pop()
        groups[-1] += rest
    return np.array([reference[g].sum() for g in groups]), np.array([observed[g].sum() for g in groups])


def merge_histograms(histograms: Sequence[Histogram]) -> Histogram | None:
    """Return the sum of histograms with equal edges; those unlike the first are left out. None for none."""
    if not histograms:
        return None
    first = histograms[0]
    alike = [h for h in histograms if (h.low, h.high, len(h.counts)) == (first.low, first.high, len(first.counts))]
    return Histogram(low=first.low, high=first.high, counts=add_counts([h.counts for h in alike]))


def add_counts(counts: Sequence[Sequence[int]]) -> list[int]:
    """Return the sums by position; shorter lists count as filled up with zeros."""
    if len({len(item) for item in counts}) <= 1:
        return [*map(sum, zip(*counts, strict=True))]
    return [*map(sum, zip_longest(*counts, fillvalue=0))]


def latency_percentiles(histogram: Histogram) -> Percentiles:
    """Return percentiles in milliseconds from a histogram of log10(ms): mergeable, unlike percentiles themselves."""
    total = sum(histogram.counts)
    if total <= 0:
        return Percentiles()
    width = (histogram.high - histogram.low) / len(histogram.counts)
    middles = [10 ** (histogram.low + (i + 0.5) * width) for i in range(len(histogram.counts))]
    mean = sum(m * c for m, c in zip(middles, histogram.counts, strict=True)) / total
    p50, p90, p99 = latency_quantiles(histogram, (0.5, 0.9, 0.99))
    return Percentiles(p50=p50, p90=p90, p99=p99, mean=mean, count=total)


def latency_quantiles(histogram: Histogram, shares: Sequence[float]) -> tuple[float, ...]:
    """Return the milliseconds that these shares of all requests took at most. The histogram is not empty."""
    total, width = sum(histogram.counts), (histogram.high - histogram.low) / len(histogram.counts)
    return tuple(10 ** _quantile(histogram, share * total, width) for share in shares)


def _quantile(histogram: Histogram, rank: float, width: float) -> float:
    """Return the value with `rank` counts below it, evenly spread within its bin."""
    below = 0.0
    for index, count in enumerate(histogram.counts):
        if count and below + count >= rank:
            return histogram.low + (index + (rank - below) / count) * width
        below += count
    return histogram.high


def newest_windows(windows: Sequence[Observed], min_samples: int) -> Sequence[Observed]:
    """Return the shortest run of newest windows that holds enough answers, or nothing while there are too few.

    `windows` come newest first. Judging only these finds a change within `min_samples` answers, however long the
    history of good ones before it.
    """
    total = 0
    for index, window in enumerate(windows):
        total += answer_count(window)
        if total >= min_samples:
            return windows[: index + 1]
    return ()


def answer_count(window: Observed) -> int:
    return max(0, window.request_count - window.error_count)


def drifted(policy: DriftPolicy, reference: Mapping[str, Any], windows: Sequence[Observed]) -> list[Signal]:
    """Return what has drifted in the newest windows (newest first), most extreme first.

    `reference` is that of the bundle's manifest. Signals that either side lacks are not judged.
    """
    if not policy.enabled:
        return []
    recent = newest_windows(windows, policy.min_samples)
    found = []
    for name in SIGNALS:
        expected, seen = _expected(reference, name), _seen(recent, name)
        if sum(seen) < policy.min_samples or not expected:
            continue
        length = len(expected) if name != CLASSES else max(len(expected), len(seen))
        result = compare(_padded(expected, length), _padded(seen, length), ordered=name not in UNORDERED)
        if result.psi > policy.threshold and result.p_value < MAX_P_VALUE:
            found.append(_signal(name, result, policy.threshold, sum(seen)))
    return sorted(found, key=lambda signal: -signal.statistic)


def _signal(name: str, found: Comparison, threshold: float, count: int) -> Signal:
    words = (
        f"{name} of the last {count} answers is unlike the validation pictures "
        f"(stability index {found.psi:.2f}, allowed {threshold:.2f}; p = {found.p_value:.1e})"
    )
    return Signal(name, found.psi, threshold, found.p_value, count, words)


def _expected(reference: Mapping[str, Any], name: str) -> list[int]:
    counts = reference.get("class_counts" if name == CLASSES else name) or []
    return [int(count) for count in counts if math.isfinite(count)]


def _seen(windows: Sequence[Observed], name: str) -> list[int]:
    if name == CLASSES:
        return add_counts([window.class_counts for window in windows])
    histograms = [w.confidence if name == CONFIDENCE else w.inputs.get(name) for w in windows]
    merged = merge_histograms([histogram for histogram in histograms if histogram is not None])
    return merged.counts if merged else []


def _padded(counts: Sequence[int], length: int) -> list[int]:
    return [*counts, *([0] * (length - len(counts)))]
