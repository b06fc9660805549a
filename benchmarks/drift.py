"""Drift: how soon it is found and how often it is not there, against one threshold on the newest windows.

Both rules see the same windows: small ones, of thirty answers of a small classifier every quarter of an hour. The sequential rule
judges each device as one of a thousand whose project allows itself a tenth of a false alarm a month. Streams without a drift are of three
kinds: answers as they were validated, a lasting shift that is smaller than the one let pass, and scenes, in which five
answers at a time are of nearly the same picture. Drifts begin after 100 windows, as strong as their stability index says. All of it for
two indices that are let pass. How soon one threshold finds a drift has to be read beside how often it finds one that is not there.
MILONGA_BENCH_EFFORT=0.3 looks at fewer devices, in some three minutes.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from milonga.pictures import BINS, INPUT_STATISTICS
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import answer_count, drifted
from milonga_hub.telemetry.rules_sequential import stability_index
from milonga_hub.telemetry.rules_watching import WATCHED, after, said, watched

from benchmarks.results import Result, median_and_spread

_EFFORT = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
# The index that is let pass, and 20 of Beta(9, 20), which brightness is where nothing drifts, for a shift that is let pass.
_LET_PASS = {0.25: 17.0, 0.1: 18.5}
_ENOUGH = math.log(1000 * len(WATCHED) / DriftPolicy().false_alarms_per_month)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_SECONDS = 900.0
_ANSWERS = 30
_MONTH = round(30 * 86400 / _SECONDS)
_VALIDATED = 360
_SEEDS = range(max(3, round(11 * _EFFORT)))
_QUIET_SEEDS = range(max(2, round(4 * _EFFORT)))
_BEFORE, _AT_MOST = 100, 500
# And for drifts.
_STRENGTHS = (15.0, 13.0, 11.0, 9.0, 6.0)
# By how much a cool-down of an hour holds back the next alarm.
_COOL_DOWN = round(3600 / _SECONDS)

Judge = Callable[[TelemetryWindow], bool]


def _shares(random: np.random.Generator, a: float, b: float, size: int, alike: int) -> list[int]:
    values = np.repeat(random.beta(a, b, -(-size // alike)), alike)[:size]
    return [int(n) for n in np.histogram(values, bins=20, range=(0, 1))[0]]


def _counts(random: np.random.Generator, size: int, b: float = 20.0, alike: int = 1) -> dict[str, list[int]]:
    return {
        "confidence": _shares(random, 8, 0.7, size, alike),
        "brightness": _shares(random, 9, b, size, alike),
        "contrast": _shares(random, 30, 12, size, alike),
        "sharpness": _shares(random, 20, 20, size, alike),
        "chroma": _shares(random, 6, 20, size, alike),
        "warmth": _shares(random, 40, 36, size, alike),
        "class_counts": [int(n) * alike for n in random.multinomial(size // alike, [0.1] * 10)],
    }


def _window(place: int, counts: dict[str, list[int]]) -> TelemetryWindow:
    def histogram(name: str) -> Histogram:
        low, high, _ = BINS[name]
        return Histogram(low=low, high=high, counts=counts[name])

    began = _START + timedelta(seconds=_SECONDS * place)
    return TelemetryWindow(
        device="d", boot_id="b", sequence=place, started_at=began, ended_at=began + timedelta(seconds=_SECONDS),
        request_count=_ANSWERS, confidence=histogram("confidence"), class_counts=counts["class_counts"],
        inputs={name: histogram(name) for name in INPUT_STATISTICS},
    )  # fmt: skip


def _sequential(policy: DriftPolicy, reference: dict[str, Any]) -> Judge:
    seen = watched(policy, reference)

    def judge(window: TelemetryWindow) -> bool:
        nonlocal seen
        seen = after(seen, policy, window)
        found = {name: one for name, one in seen.evidence().items() if one.log_won >= _ENOUGH}
        seen = said(seen, found)
        return bool(found)

    return judge


def _threshold(policy: DriftPolicy, reference: dict[str, Any]) -> Judge:
    newest: list[TelemetryWindow] = []

    def judge(window: TelemetryWindow) -> bool:
        newest.insert(0, window)
        while sum(answer_count(one) for one in newest[:-1]) >= policy.min_samples:
            newest.pop()
        return bool(drifted(policy, reference, newest))

    return judge


_RULES = (_sequential, _threshold)


def _false_alarms(policy: DriftPolicy, seed: int, b: float, alike: int) -> list[float]:
    """Return how often each rule raises an alarm in a month of one device."""
    random = np.random.default_rng(seed)
    reference = _counts(random, _VALIDATED)
    judges, alarms = [rule(policy, reference) for rule in _RULES], [0.0, 0.0]
    free_from = [0, 0]
    for place in range(_MONTH):
        window = _window(place, _counts(random, _ANSWERS, b, alike))
        for index, judge in enumerate(judges):
            if judge(window) and place >= free_from[index]:
                alarms[index] += 1
                free_from[index] = place + _COOL_DOWN
    return alarms


def _delays(policy: DriftPolicy, seed: int, b: float) -> list[float]:
    """Return after how many answers each rule finds the drift; what is never found counts as the most that was waited for."""
    random = np.random.default_rng(1000 + seed)
    reference = _counts(random, _VALIDATED)
    judges, delays = [rule(policy, reference) for rule in _RULES], [math.nan, math.nan]
    for place in range(_BEFORE + _AT_MOST):
        window = _window(place, _counts(random, _ANSWERS, 20.0 if place < _BEFORE else b))
        for index, judge in enumerate(judges):
            if math.isnan(delays[index]) and judge(window) and place >= _BEFORE:
                delays[index] = (place - _BEFORE + 1) * _ANSWERS
        if not any(math.isnan(one) for one in delays):
            break
    return [_AT_MOST * _ANSWERS if math.isnan(one) else one for one in delays]


def _index(b: float) -> float:
    """Return the stability index of a strength, on samples so large that chance adds nothing."""
    random = np.random.default_rng(0)
    before, now = (np.array(_shares(random, 9, one, 400_000, 1), dtype=float) for one in (20.0, b))
    return stability_index((before + 0.5) / (before + 0.5).sum(), now)


def _quiet(policy: DriftPolicy) -> Iterator[Result]:
    let_pass = _LET_PASS[policy.threshold]
    kinds = (
        ("as validated", 20.0, 1),
        (f"a shift of {_index(let_pass):.2f}", let_pass, 1),
        ("scenes of five like pictures", 20.0, 5),
    )
    for kind, b, alike in kinds:
        ours, theirs = zip(*(_false_alarms(policy, seed, b, alike) for seed in _QUIET_SEEDS), strict=True)
        print(f"  {kind}: {ours} false alarms in a month of each of {len(ours)} devices; by one threshold {theirs}")
        yield Result(
            f"false alarms a device-month, {policy.threshold:g} let pass, {kind}", statistics.mean(ours), "", "one threshold", statistics.mean(theirs), 0.1
        )  # fmt: skip


def _found(policy: DriftPolicy, strengths: Sequence[float]) -> Iterator[Result]:
    for b in strengths:
        ours, theirs = zip(*(_delays(policy, seed, b) for seed in _SEEDS), strict=True)
        missed = [sum(one >= _AT_MOST * _ANSWERS for one in delays) for delays in (ours, theirs)]
        print(
            f"  index {_index(b):.2f}: never found on {missed[0]} of {len(ours)} devices; by one threshold on {missed[1]}"
        )
        delay, spread = median_and_spread(ours)
        # Those count as the most that was waited for: the median is then too low.
        never = f", never on {missed[0]} of {len(ours)}" if missed[0] else ""
        yield Result(
            f"answers until a drift of {_index(b):.2f} is found, {policy.threshold:g} let pass{never}", delay, "answers", "one threshold",
            statistics.median(theirs), None, spread,
        )  # fmt: skip


def run() -> list[Result]:
    """Count alarms of both rules where nothing drifts, and time them where something does."""
    results: list[Result] = []
    for threshold in _LET_PASS:
        policy = DriftPolicy(enabled=True, threshold=threshold)
        print(f"  an index of {threshold:g} is let pass")
        results += [*_quiet(policy), *_found(policy, _STRENGTHS)]
    return results
