"""Rank correlations are those of scipy.stats, without what it takes to import it."""

from __future__ import annotations

from pathlib import Path

import milonga_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.learning.ranks import kendall, spearman
from scipy.stats import kendalltau, spearmanr

# Few values, so that many pairs are equal.
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30)


@given(PAIRS)
def test_both_are_what_scipy_says_and_0_where_one_side_is_constant(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=np.float64).T
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    assert spearman(first, second) == pytest.approx(0.0 if constant else spearmanr(first, second).statistic)
    assert kendall(first, second) == pytest.approx(0.0 if constant else kendalltau(first, second).statistic)


def test_nothing_in_the_hub_takes_the_second_that_scipys_statistics_need_to_import() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in Path(milonga_hub.__file__).parent.rglob("*.py")}
    assert len(sources) > 100
    assert not [path for path, text in sources.items() if "from scipy.stats" in text or "import scipy.stats" in text]
