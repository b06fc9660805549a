"""How many answers of the field are right, told from how sure they were: no labels needed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milonga_hub.telemetry.models import Estimate

# Of a normal distribution, two-sided.
_NINETY_FIVE_PERCENT = 1.96
# A confidence that few validation pictures had is believed to be right as often as it says, as much as two pictures would say it.
_BELIEF = 2.0


def estimated(reference: Mapping[str, Any], confidence: Sequence[int]) -> Estimate | None:
    """Return the accuracy of answers with these confidences, by bin; None where the bundle's reference cannot tell.

    Each answer counts as right with the share of validation pictures that were right at its confidence (the calibrated form of
    what Guillory et al. 2021, "Predicting with confidence on unseen distributions", and NannyML's CBPE estimate). The interval is for how few pictures
    and answers there are. That the model is as well calibrated in the field is taken for granted: where it meets what it never saw, it is
    surer than it should be, and the estimate is too high.
    """
    seen = np.asarray(reference.get("confidence") or [], dtype=np.float64)
    right = np.asarray(reference.get("confidence_right") or [], dtype=np.float64)
    counts = np.asarray(confidence, dtype=np.float64)
    if not len(seen) or not len(seen) == len(right) == len(counts) or counts.min() < 0 or not counts.sum():
        return None
    middles = (np.arange(len(seen)) + 0.5) / len(seen)
    share = (right + _BELIEF * middles) / (seen + _BELIEF)
    weights, count = counts / counts.sum(), float(counts.sum())
    accuracy = float(weights @ share)
    of_pictures = float((weights**2) @ (share * (1 - share) / (seen + _BELIEF + 1)))
    of_answers = max(0.0, float(weights @ share) * (1 - float(weights @ share))) / count
    half = _NINETY_FIVE_PERCENT * math.sqrt(of_pictures + of_answers)
    return Estimate(
        accuracy,
        max(0.0, accuracy - half),
        min(1.0, accuracy + half),
        int(count),
        float(right.sum() / max(seen.sum(), 1)),
    )


def together(estimates: Sequence[Estimate]) -> Estimate | None:
    """Return the estimate for all answers of several builds, whose uncertainties are taken to go the same way."""
    count = sum(one.answer_count for one in estimates)
    if not count:
        return None
    accuracy, low, high, validated = (
        sum(getattr(one, name) * one.answer_count for one in estimates) / count
        for name in ("accuracy", "low", "high", "validated")
    )
    return Estimate(accuracy, low, high, count, validated)
