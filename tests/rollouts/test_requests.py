"""A version is stopped for the requests that fail where these are no chance, however often one looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import Rollout
from milonga_hub.rollouts.needs import Requests
from milonga_hub.rollouts.rules_requests import FALSE_ALARMS, log_evidence, requests_of, too_many_errors
from scipy.stats import binom

NEW, OLD = "models/digits/versions/2", "models/digits/versions/1"
ENOUGH = -math.log(FALSE_ALARMS)


def _said(ours: Requests, theirs: Requests | None, limit: float | None = 0.02) -> str:
    rollout = Rollout(id="r", project="p", model_version=NEW, spec=RolloutSpec(max_error_increase=limit))
    return too_many_errors(rollout, {NEW: ours, **({OLD: theirs} if theirs else {})})


@pytest.mark.parametrize(("share", "limit"), [(0.02, 0.0), (0.3, 0.0), (0.3, 0.1), (0.6, 0.3), (0.9, 0.0)])
def test_what_is_won_against_a_version_that_fails_no_more_than_it_may_is_one_at_most_on_average(
    share: float, limit: float
) -> None:
    for n, m in ((9, 9), (4, 14), (14, 4)):
        worth = sum(
            binom.pmf(k, n, share + limit)
            * binom.pmf(j, m, share)
            * math.exp(log_evidence(Requests(n, k), Requests(m, j), limit))
            for k in range(n + 1)
            for j in range(m + 1)
        )
        assert worth <= 1 + 1e-9


@pytest.mark.parametrize("chance", [0.5, 0.25])
def test_looking_after_every_request_raises_no_more_alarms_than_are_allowed(chance: float) -> None:
    share, last, enough = 0.3, 16, -math.log(chance)
    ways, alarmed = {(0, 0): 1.0}, 0.0
    for count in range(1, last + 1):
        then: dict[tuple[int, int], float] = {}
        for (k, j), likely in ways.items():
            for with_it in (0, 1):
                for elsewhere in (0, 1):
                    fails = [share if one else 1 - share for one in (with_it, elsewhere)]
                    place = k + with_it, j + elsewhere
                    then[place] = then.get(place, 0.0) + likely * fails[0] * fails[1]
        ways = {}
        for (k, j), likely in then.items():
            if log_evidence(Requests(count, k), Requests(count, j), 0.0) >= enough:
                alarmed += likely
            else:
                ways[k, j] = likely
    assert 0 < alarmed <= chance


def test_twice_the_failures_stop_a_version_once_they_are_no_chance() -> None:
    assert not _said(Requests(100, 6), Requests(300, 9), 0.01)
    said = _said(Requests(4000, 240), Requests(12000, 360), 0.01)
    assert said == f"6.0% of 4000 requests to {NEW} failed, 3.0% of 12000 on devices without it"
    assert not _said(Requests(4000, 240), Requests(12000, 360), 0.03), "3 points more are allowed"
    assert not _said(Requests(4000, 240), Requests(12000, 360), None)


def test_more_requests_elsewhere_never_hide_what_fewer_have_shown() -> None:
    found = [log_evidence(Requests(1000, 60), Requests(m, round(0.03 * m)), 0.0) for m in (1000, 10_000, 1_000_000)]
    assert found == sorted(found) and found[-1] > ENOUGH


def test_where_nobody_else_was_asked_none_is_taken_to_fail() -> None:
    assert not _said(Requests(49, 49), None), "fewer than 50 say nothing"
    assert _said(Requests(50, 50), None) == f"100.0% of 50 requests to {NEW} failed"
    assert not _said(Requests(100, 3), None), "3 in 100 may be 2 in 100 and chance"
    assert not _said(Requests(10_000, 200), None)
    assert log_evidence(Requests(100, 1), Requests(), 0.0) == math.inf, "where none may fail, one is one too many"


def test_failures_that_come_together_tell_less() -> None:
    random = np.random.default_rng(4)
    alone = requests_of([(60, int(random.binomial(60, 0.05))) for _ in range(200)])
    assert alone.alike == pytest.approx(1.0, abs=0.1)
    together = requests_of([(60, 30 * int(random.random() < 0.1)) for _ in range(200)])
    assert together.alike > 10 and together.failed / together.total == pytest.approx(0.05, abs=0.015)
    theirs = requests_of([(60, int(random.binomial(60, 0.02))) for _ in range(200)])
    assert log_evidence(together._replace(alike=1.0), theirs, 0.0) > ENOUGH
    assert log_evidence(together, theirs, 0.0) < ENOUGH
