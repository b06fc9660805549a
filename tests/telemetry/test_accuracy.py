"""The accuracy of answers is told from how sure they were, with how far it can be trusted."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.telemetry.confidences import Confidences
from milonga_hub.telemetry.models import Estimate, TelemetryWindow
from milonga_hub.telemetry.rules_accuracy import estimated, together

from tests.telemetry.windows import BUNDLE, START, histogram, window

NAME = "models/digits/versions/1"


def _sampled(random: np.random.Generator, size: int, a: float, b: float) -> tuple[list[int], list[int], float]:
    """Return how sure answers of a calibrated model are and the right ones of them, by bin, and the share of right ones."""
    sure = random.beta(a, b, size)
    right = random.random(size) < sure
    counts, rights = (
        [int(n) for n in np.histogram(values, bins=20, range=(0, 1))[0]] for values in (sure, sure[right])
    )
    return counts, rights, float(right.mean())


def test_the_interval_holds_the_true_accuracy_of_a_model_that_knows_how_sure_it_is() -> None:
    random = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        seen, right, validated = _sampled(random, 400, 8, 1)
        field, _, true = _sampled(random, 500, 5, 2)
        found = estimated({"confidence": seen, "confidence_right": right}, field)
        assert found is not None
        assert found.validated == pytest.approx(validated)
        assert found.answer_count == 500
        held += found.low <= true <= found.high
    assert held >= 186  # 93 % of 200


def test_more_pictures_and_answers_make_it_surer() -> None:
    random = np.random.default_rng(5)
    widths = []
    for size in (100, 1000, 10_000):
        seen, right, _ = _sampled(random, size, 8, 1)
        field, _, _ = _sampled(random, size, 5, 2)
        found = estimated({"confidence": seen, "confidence_right": right}, field)
        assert found is not None
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


COUNTS = st.lists(st.integers(0, 10**6), min_size=20, max_size=20)


@given(COUNTS, COUNTS, COUNTS)
def test_an_estimate_is_a_share_within_its_interval(seen: list[int], right: list[int], field: list[int]) -> None:
    found = estimated(
        {"confidence": seen, "confidence_right": [min(pair) for pair in zip(seen, right, strict=True)]}, field
    )
    if sum(field):
        assert found is not None
        assert 0 <= found.low <= found.accuracy + 1e-12
        assert found.accuracy <= found.high + 1e-12 <= 1 + 1e-9


@pytest.mark.parametrize(
    "reference", [{}, {"confidence": [1] * 20}, {"confidence": [1] * 9, "confidence_right": [1] * 9}]
)
def test_a_bundle_that_does_not_say_how_far_it_can_be_believed_has_no_estimate(reference: dict[str, Any]) -> None:
    assert estimated(reference, [5] * 20) is None
    assert together([]) is None


def test_builds_count_by_their_answers() -> None:
    whole = together([Estimate(0.9, 0.8, 1.0, 300, 0.95), Estimate(0.5, 0.4, 0.6, 100, 0.95)])
    assert whole is not None
    assert whole.accuracy == pytest.approx(0.8)
    assert whole.answer_count == 400


def _row(at: datetime, counts: list[int]) -> TelemetryWindow:
    given = window(confidence=histogram("confidence", counts))
    return replace(given, received_at=at)


def test_answers_are_remembered_for_a_day() -> None:
    kept = Confidences()
    kept.add([_row(START + timedelta(hours=hour), [1] * 20) for hour in (0, 10, 20)])
    assert kept.of("digits", START + timedelta(hours=20)) == {(NAME, BUNDLE): [3] * 20}
    assert kept.of("digits", START + timedelta(hours=30)) == {(NAME, BUNDLE): [2] * 20}
    assert kept.of("digits", START + timedelta(days=3)) == {}
    assert kept.of("other", START) == {}
