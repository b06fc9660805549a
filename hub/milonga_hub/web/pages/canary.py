"""Canary against control: how devices that have a rollout's version do beside those of the project that do not have it yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milonga_hub.db import utc_now
from milonga_hub.rollouts import rules_progress
from milonga_hub.rollouts.models import RolloutView
from milonga_hub.telemetry.rules_series import Sum, floored, step_for, summed
from milonga_hub.web.services import HubServices


@dataclass(frozen=True)
class Sides:
    """What requests came to on both sides since the first wave began; control is None where no other version served any."""

    canary: Sum | None
    control: Sum | None
    # The versions that the other devices serve.
    others: Sequence[str]


def sides(hub: HubServices, rollout: RolloutView) -> Sides | None:
    """Return both sides; None before the rollout has begun."""
    since, until = rules_progress.began(rollout), rollout.ended_at or utc_now()
    if since is None:
        return None
    step = step_for((until - since).total_seconds())
    found = hub.telemetry.totals.series(rollout.project, floored(since, step), until, step)
    served = {version: summed(sums, since) for (_, version), sums in found.items() if version}
    canary = served.pop(rollout.model_version, None)
    return Sides(canary, summed(list(served.values()), since) if served else None, sorted(served))
