"""Networks are told apart along axes, and narrowed down by ranges of them."""

from __future__ import annotations

from typing import Any

import pytest
from milonga_hub.runs.models import Candidate
from milonga_hub.web.axes import Range, axes, overall, ranges, wanted


def candidate(**values: Any) -> Candidate:
    return Candidate(key="k", run="r", device_type="t", subnet="s", **values)


SMALL = candidate(
    predicted_ms=1.0, accuracy=0.9, choices={"resolution": "24", "stage1.depth": "2", "stage2.depth": "1"}
)
LARGE = candidate(
    predicted_ms=4.0,
    predicted_accuracy=0.95,
    choices={"resolution": "32", "stage1.depth": "3", "stage2.operation": "c3k2"},
)


def test_axes_are_what_some_network_has_a_figure_for() -> None:
    assert [axis.name for axis in axes([SMALL, LARGE])] == [
        "choice_resolution",
        "choice_depth",
        "predicted_ms",
        "accuracy",
    ]


def test_networks_of_earlier_versions_have_no_elastic_axes() -> None:
    assert [axis.name for axis in axes([candidate(predicted_ms=1.0)])] == ["predicted_ms"]


@pytest.mark.parametrize(
    ("kind", "choices", "figure"),
    [
        ("depth", ["2", "1"], 3.0),
        ("width", ["0.5", "1"], 0.75),
        ("squeeze", ["yes", "no", "no", "no"], 0.25),
        ("operation", ["c3k2"], None),
        ("depth", [], None),
    ],
)
def test_choices_of_stages_and_blocks_become_one_figure(kind: str, choices: list[str], figure: float | None) -> None:
    assert overall(kind, choices) == figure


def test_a_range_holds_its_ends_and_nothing_that_is_not_known() -> None:
    range_ = Range(1.0, 2.0)
    assert [range_.holds(value) for value in (0.9, 1.0, 2.0, 2.1, None)] == [False, True, True, False, False]


def test_an_address_narrows_down() -> None:
    along = axes([SMALL, LARGE])
    asked, wrong = ranges(along, {"accuracy.min": "0.93", "choice_depth.max": "", "unknown.min": "1"})
    assert (asked, wrong) == ({"accuracy": Range(0.93, None)}, "")
    assert [wanted(each, along, asked) for each in (SMALL, LARGE)] == [False, True]


@pytest.mark.parametrize("text", ["many", "nan", "inf"])
def test_what_is_no_figure_narrows_nothing(text: str) -> None:
    asked, wrong = ranges(axes([SMALL]), {"accuracy.min": text})
    assert asked == {}
    assert bool(wrong) == (text == "many")
