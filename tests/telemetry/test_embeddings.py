"""Embeddings are counted in cells that were fitted to validation pictures, and drift shows in the counts."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from milonga.embeddings import EMBEDDING, Cells, Floats, fitted
from milonga_agent.observe import Window
from milonga_agent.simulation.figures import counted
from milonga_hub.projects.models import DriftMethod, DriftPolicy
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules import drifted
from milonga_hub.telemetry.rules_watching import Watched, after, watched

from tests.telemetry.windows import window

POLICY = DriftPolicy(enabled=True, min_samples=100)


def _embeddings(seed: int, count: int, moved: float = 0.0) -> Floats:
    """Three kinds of pictures in four dimensions, all of them moved in one direction."""
    random = np.random.default_rng(seed)
    kinds = np.array([[0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 5, 0]], dtype=np.float32)[random.integers(0, 3, count)]
    return np.asarray(kinds + random.standard_normal((count, 4)) + moved * np.array([0, 0, 0, 1]), dtype=np.float32)


def _fitted(count: int = 600) -> tuple[Cells, list[int]]:
    found = fitted(_embeddings(0, count))
    assert found is not None
    return found


def _after(seen: Watched, cells: Cells, moved: float, first: int, last: int) -> Watched:
    for sequence in range(first, last):
        counts = cells.counts(_embeddings(100 + sequence, 30, moved))
        embedding = Histogram(low=0.0, high=float(cells.count), counts=counts)
        seen = after(seen, POLICY, window(sequence, request_count=30, inputs={EMBEDDING: embedding}))
    return seen


def test_half_of_the_pictures_make_the_cells_and_the_other_half_is_counted() -> None:
    cells, counts = _fitted()
    assert (sum(counts), len(counts)) == (300, cells.count)
    near, far = counts[: cells.count // 2], counts[cells.count // 2 :]
    assert 0.1 < sum(far) / 300 < 0.4
    assert min(near) > 0


def test_a_manifest_gives_the_same_cells_again() -> None:
    cells, _ = _fitted()
    read = Cells.of(json.loads(json.dumps(cells.described())))
    seen = _embeddings(7, 200)
    assert read.places(seen) == cells.places(seen)
    again, _ = _fitted()
    assert again.described() == cells.described()


def test_too_few_pictures_or_all_alike_have_no_cells() -> None:
    assert fitted(_embeddings(0, 90)) is None
    assert fitted(np.ones((600, 4), dtype=np.float32)) is None
    assert fitted(np.zeros((0, 4), dtype=np.float32)) is None


def test_what_is_no_embedding_is_counted_nowhere() -> None:
    cells, _ = _fitted()
    odd = _embeddings(1, 3)
    odd[1, 2] = math.nan
    assert len(cells.places(odd)) == 2
    assert cells.places(np.zeros((3, 5), dtype=np.float32)) == []


@pytest.mark.parametrize("key", ["mean", "spread", "centres", "radii"])
def test_cells_that_do_not_belong_together_are_refused(key: str) -> None:
    described: dict[str, Any] = _fitted()[0].described()
    with pytest.raises((KeyError, TypeError, ValueError)):
        Cells.of({**described, key: described[key][1:]})
    with pytest.raises((KeyError, TypeError, ValueError)):
        Cells.of({name: value for name, value in described.items() if name != key})


def test_pictures_that_move_away_from_all_others_are_a_drift_and_others_are_none() -> None:
    cells, counts = _fitted()
    fresh = watched(POLICY, {EMBEDDING: counts})
    calm = _after(fresh, cells, 0.0, 0, 40)
    assert calm.evidence()[EMBEDDING].log_won < 0
    # Fifty windows of three kinds of pictures, each of them four standard deviations off where it was.
    assert _after(calm, cells, 4.0, 40, 50).evidence()[EMBEDDING].log_won > math.log(10_000)


def test_one_threshold_on_the_newest_windows_tells_it_too() -> None:
    policy = DriftPolicy(enabled=True, min_samples=100, method=DriftMethod.THRESHOLD)
    cells, counts = _fitted()

    def signals(moved: float) -> list[str]:
        counted = cells.counts(_embeddings(5, 200, moved))
        seen = window(request_count=200, inputs={EMBEDDING: Histogram(low=0.0, high=cells.count, counts=counted)})
        return [one.name for one in drifted(policy, {EMBEDDING: counts}, [seen])]

    assert signals(0.0) == [] and signals(4.0) == [EMBEDDING]


def test_a_bundle_without_cells_is_judged_by_all_else() -> None:
    assert EMBEDDING not in watched(POLICY, {"brightness": [10] * 20}).allowed


def test_a_window_counts_cells_only_where_the_bundle_has_some() -> None:
    plain, embedding = Window(2), Window(2, cells=6)
    for one in (plain, embedding):
        one.answered(1.0, [0.9, 0.8], [0, 1], [], [] if one is plain else [5, 5])
    assert EMBEDDING not in plain.take()["inputs"]
    assert embedding.take()["inputs"][EMBEDDING] == {"low": 0.0, "high": 6.0, "counts": [0, 0, 0, 0, 0, 2]}
    assert embedding.take()["inputs"][EMBEDDING]["counts"] == [0] * 6


def test_simulated_devices_that_drift_see_what_is_far_from_all_cells() -> None:
    reference = {EMBEDDING: [20, 20, 20, 2, 2, 2]}
    seen, shifted = (counted(5.0, 660, 0, reference, shift, ("seed",))["inputs"] for shift in (0.0, 0.5))
    assert seen[EMBEDDING]["counts"] == [200, 200, 200, 20, 20, 20]
    assert sum(shifted[EMBEDDING]["counts"][3:]) > 590
    assert EMBEDDING not in counted(5.0, 660, 0, {}, 0.0, ("seed",))["inputs"]
