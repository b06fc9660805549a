"""What is watched of one device with one bundle, and against which reference. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from milonga_hub.evalues import MIN_NEIGHBOURS, spread, unlikeness_of
from milonga_hub.projects.models import DriftPolicy, DriftReference
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules import (
    CLASSES,
    CONFIDENCE,
    ERRORS,
    LATENCY,
    SIGNALS,
    UNORDERED,
    Signal,
    add_counts,
    merge_histograms,
)
from milonga_hub.telemetry.rules_allowed import Allowed, allowed, at_most
from milonga_hub.telemetry.rules_latency import latency_at, requests_slower
from milonga_hub.telemetry.rules_sequential import (
    Evidence,
    Watch,
    advance,
    evidence,
    fresh,
    is_allowed,
    renewed,
    stability_index,
)

# Requests count as slow from so much above what nine of ten took when the bundle was new, ...
SLOWER = 1.25
# ... and so large a share of them may be slow: twice and a half of what it was.
MAX_SLOW_SHARE = 0.25
# As the alert of that name allows.
MAX_ERROR_SHARE = 0.05
WATCHED = (*SIGNALS, LATENCY, ERRORS)


class Seen(Protocol):
    """A telemetry window, as far as it is looked at here."""

    started_at: datetime
    ended_at: datetime
    request_count: int
    error_count: int
    log10_latency_ms: Histogram | None
    confidence: Histogram | None
    class_counts: list[int]
    inputs: dict[str, Histogram]


@dataclass(frozen=True, eq=False)
class Watched:
    """One device with one bundle: what each signal is held against, and what has been seen of it."""

    allowed: Mapping[str, Allowed]
    watches: Mapping[str, Watch]
    # Windows since the bundle came, until they are enough to be a reference; None from then on.
    early: tuple[Seen, ...] | None = ()
    slow_ms: float = math.inf
    # What the signals that have drifted had won when that was said.
    said: Mapping[str, float] = field(default_factory=dict)

    def evidence(self) -> dict[str, Evidence]:
        """Return by signal what speaks for a drift since it was last said that there is one."""
        return evidence_of([self])[0]

    def is_calm(self, name: str, answers: int) -> bool:
        """Return whether the last so many answers are as they should be in this signal."""
        watch, one = self.watches.get(name), self.allowed.get(name)
        return watch is not None and one is not None and is_allowed(watch, one, answers)


def evidence_of(devices: Sequence[Watched]) -> list[dict[str, Evidence]]:
    """Return the evidence of each, all worked out together."""
    pairs = [[(name, one) for name, one in seen.allowed.items() if name in seen.watches] for seen in devices]
    found = iter(
        evidence(
            [seen.watches[name] for seen, its in zip(devices, pairs, strict=True) for name, _ in its],
            [one for its in pairs for _, one in its],
        )
    )
    return [{name: next(found) for name, _ in its} for its in pairs]


def watched(policy: DriftPolicy, reference: Mapping[str, Any]) -> Watched:
    """Return a device's bundle before its first window; `reference` is that of the bundle's manifest."""
    found = {ERRORS: at_most(MAX_ERROR_SHARE)}
    if policy.reference is DriftReference.VALIDATION:
        found |= _held({name: reference.get(_KEYS.get(name, name)) or [] for name in SIGNALS}, policy.threshold, 1.0)
    return Watched(found, {name: fresh(one) for name, one in found.items()})


_KEYS = {CLASSES: "class_counts"}


def _held(references: Mapping[str, Sequence[int]], threshold: float, thinned: float) -> dict[str, Allowed]:
    found = {}
    for name, counts in references.items():
        one = allowed([count / thinned for count in counts], threshold, ordered=name not in UNORDERED)
        if one is not None:
            found[name] = one
    return found


def after(seen: Watched, policy: DriftPolicy, window: Seen) -> Watched:
    """Return what is watched after one more window.

    The first windows in which requests were answered as they should be are the reference of latencies, and of all signals where the policy
    says so; they are not held against themselves.
    """
    judged = seen.allowed
    if seen.early is not None and window.request_count > 0:
        seen = _settled(replace(seen, early=(*seen.early, window)), policy)
    began, ended = window.started_at.timestamp(), window.ended_at.timestamp()
    watches = dict(seen.watches)
    for name, one in judged.items():
        counts = one.counts(counts_of(name, window, seen.slow_ms))
        watches[name] = advance(watches.get(name) or fresh(one), counts, began, ended)
    return replace(seen, watches=watches)


def _settled(seen: Watched, policy: DriftPolicy) -> Watched:
    # The first answers of an engine are slower than all others.
    healthy = [one for one in (seen.early or ())[1:] if one.error_count <= MAX_ERROR_SHARE * one.request_count]
    answers = sum(max(0, one.request_count - one.error_count) for one in healthy)
    if answers < policy.min_samples:
        return seen
    found: dict[str, Allowed] = {}
    if policy.reference is DriftReference.FIRST_WINDOWS:
        for name in SIGNALS:
            counts = [counts_of(name, one, math.inf) for one in healthy]
            found |= _held({name: add_counts(counts)}, policy.threshold, _thinned(counts))
    latency = merge_histograms([one.log10_latency_ms for one in healthy if one.log10_latency_ms is not None])
    slow_ms = math.inf
    if latency is not None and sum(latency.counts) > 0:
        slow_ms = SLOWER * latency_at(latency, 0.9)
        found[LATENCY] = at_most(MAX_SLOW_SHARE)
    return replace(seen, allowed={**seen.allowed, **found}, early=None, slow_ms=slow_ms)


def _thinned(windows: Sequence[Sequence[int]]) -> float:
    """Return as how many of these answers an independent one counts."""
    pairs = (
        unlikeness_of(np.array(before, dtype=float), np.array(now, dtype=float)) for before, now in pairwise(windows)
    )
    known = [one for one in pairs if one is not None]
    return spread(known) if len(known) >= MIN_NEIGHBOURS else 1.0


def said(seen: Watched, found: Mapping[str, Evidence]) -> Watched:
    """Return what is watched once it has been said that these have drifted: whether they still do is asked anew."""
    watches = {name: renewed(watch) if name in found else watch for name, watch in seen.watches.items()}
    return replace(seen, watches=watches, said={**seen.said, **{name: one.log_won for name, one in found.items()}})


def signal_of(name: str, found: Evidence, seen: Watched, policy: DriftPolicy, watched_count: int) -> Signal:
    """Return a drift in figures and words; so many signals are watched of all devices together."""
    one, count = seen.allowed[name], round(float(found.counts.sum()))
    if one.one_sided:
        statistic, threshold = float(found.counts[1] / found.counts.sum()), float(one.expected[1])
        what = "failed" if name == ERRORS else f"took longer than {seen.slow_ms:.3g} ms"
        words = f"{statistic:.1%} of {count} requests {what} ({threshold:.0%} allowed)"
    else:
        statistic, threshold = stability_index(one.expected, found.counts), policy.threshold
        first = policy.reference is DriftReference.FIRST_WINDOWS
        like = "those of its first windows" if first else "the validation pictures"
        words = f"{name} of {count} answers is unlike {like} (stability index {statistic:.2f}, allowed {threshold:.2f})"
    began_at, chance = datetime.fromtimestamp(found.began_at, UTC), found.chance(watched_count)
    seldom = "fewer than one month in a million" if chance < 1e-6 else f"at most {chance:.2g} of all months"
    words += f" since about {began_at:%Y-%m-%d %H:%M} UTC; without a drift {seldom} would show as much"
    return Signal(name, statistic, threshold, chance, count, words, began_at)


def counts_of(name: str, window: Seen, slow_ms: float) -> list[int]:
    """Return what a window tells of a signal, by bin."""
    if name == ERRORS:
        return [max(0, window.request_count - window.error_count), window.error_count]
    if name == LATENCY:
        if window.log10_latency_ms is None or math.isinf(slow_ms):
            return [0, 0]
        slow = requests_slower(window.log10_latency_ms, slow_ms)
        return [sum(window.log10_latency_ms.counts) - slow, slow]
    if name == CLASSES:
        return window.class_counts
    histogram = window.confidence if name == CONFIDENCE else window.inputs.get(name)
    return histogram.counts if histogram is not None else []
