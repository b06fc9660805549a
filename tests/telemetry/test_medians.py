"""Medians of a whole fleet are those that each device's histograms say by themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milonga_hub.telemetry.figures import Histogram, Stored, packed_histogram
from milonga_hub.telemetry.rules import latency_quantiles, merge_histograms
from milonga_hub.telemetry.rules_medians import medians

# One, two and many bytes in a message.
_COUNT = st.sampled_from([0, 0, 1, 7, 127, 128, 300, 16_384, 2**40])


def _histograms(bins: int) -> st.SearchStrategy[Histogram]:
    return st.builds(Histogram, st.just(-2.0), st.just(5.0), st.lists(_COUNT, min_size=bins, max_size=bins))


def _expected(group: Sequence[Histogram]) -> float | None:
    merged = merge_histograms(group)
    return latency_quantiles(merged, (0.5,))[0] if merged is not None and any(merged.counts) else None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(_histograms(20), max_size=3), max_size=5))
def test_medians_are_those_of_what_each_device_added_up(fleet: list[list[Histogram]]) -> None:
    found = medians([[packed_histogram(one) for one in group] for group in fleet])
    assert found == [None if (half := _expected(group)) is None else pytest.approx(half) for group in fleet]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(_histograms(3) | _histograms(4), min_size=1, max_size=3), min_size=1, max_size=4))
def test_histograms_of_unlike_bins_are_not_mixed(fleet: list[list[Histogram]]) -> None:
    found = medians([[packed_histogram(one) for one in group] for group in fleet])
    assert found == [None if (half := _expected(group)) is None else pytest.approx(half) for group in fleet]


def test_json_of_earlier_versions_and_windows_without_latencies_are_read_too() -> None:
    one = Histogram(-2.0, 5.0, [0, 4, 0])
    stored: list[Stored] = [json.dumps(asdict(one)), packed_histogram(one), None]
    assert medians([stored, [None], []]) == [pytest.approx(10**1.5), None, None]
