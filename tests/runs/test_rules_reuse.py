"""What earlier runs measured is taken over where a few measurements, taken again, say that it still holds."""

from __future__ import annotations

from typing import Any

import pytest
from milonga_hub.runs.rules_reuse import AGAIN, change, standing, to_take_again, together


def _rows(times: dict[str, float | None], precision: str = "fp32") -> list[dict[str, Any]]:
    return [{"subnet": name, "precision": precision, "median_ms": ms} for name, ms in times.items()]


BEFORE = _rows({"a": 9.0, "b": 1.0, "c": 4.0, "d": 3.0, "e": 2.0})


def _taken(run: str, times: dict[str, float | None], purpose: str = "profile") -> list[dict[str, Any]]:
    return [{**row, "run": run, "purpose": purpose} for row in _rows(times)]


def test_only_what_came_since_the_type_was_last_measured_anew_stands_of_each_network_the_newest() -> None:
    taken = [
        *_taken("1", {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}),
        *_taken("2", {"a": 2.0, "b": 2.0, "c": 2.0}),
        *_taken("2", {"e": 2.0}, "verify"),
        *_taken("3", {"a": 3.0, "f": 3.0}),
    ]
    found = {one["subnet"]: one["median_ms"] for one in standing(taken, "fp32", 3)}
    assert found == {"a": 3.0, "f": 3.0, "b": 2.0, "c": 2.0, "e": 2.0}
    assert len(standing(taken, "fp32", 4)) == 6, "the second run measured too few to be a beginning"
    assert standing(taken, "fp32", 4)[0].keys() == BEFORE[0].keys()


def test_the_fastest_a_middle_one_and_the_slowest_are_taken_again() -> None:
    assert [one["subnet"] for one in to_take_again(BEFORE, ["fp32"], 5)] == ["b", "d", "a"]


def test_some_of_each_precision_are_taken_again() -> None:
    chosen = to_take_again(
        [*BEFORE, *_rows({"a": 5.0, "b": 0.5, "c": 2.0, "f": 1.0, "g": 1.5}, "int8")], ["fp32", "int8"], 5
    )
    assert [(one["subnet"], one["precision"]) for one in chosen[AGAIN:]] == [
        ("b", "int8"),
        ("g", "int8"),
        ("a", "int8"),
    ]


@pytest.mark.parametrize(
    ("before", "precisions", "count"),
    [
        (BEFORE, ["fp32"], 6),
        ([], ["fp32"], 1),
        (BEFORE[:2], ["fp32"], 1),
        ([*BEFORE, *_rows({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, "int8")], ["fp32", "int8"], 5),
    ],
    ids=["fewer than are measured now", "none", "fewer than are taken again", "too few in the second precision"],
)
def test_too_few_are_not_taken_over(before: list[dict[str, Any]], precisions: list[str], count: int) -> None:
    assert to_take_again(before, precisions, count) == []


def test_one_that_was_disturbed_does_not_count_and_all_that_changed_do() -> None:
    assert change(BEFORE, _rows({"b": 1.05, "d": 3.0, "a": 18.0})) == pytest.approx(0.05)
    assert change(BEFORE, _rows({"b": 1.3, "d": 3.9, "a": 11.7})) == pytest.approx(0.3)
    assert change(BEFORE, _rows({"b": 1 / 1.3, "d": 3 / 1.3, "a": 9.0 / 1.3})) == pytest.approx(0.3), (
        "faster is changed too"
    )


def test_the_precision_that_changed_most_decides() -> None:
    before = [*BEFORE, *_rows({"a": 1.0, "b": 2.0, "c": 3.0}, "int8")]
    again = [*_rows({"a": 9.0, "b": 1.0, "c": 4.0}), *_rows({"a": 2.0, "b": 4.0, "c": 6.0}, "int8")]
    assert change(before, again) == pytest.approx(1.0)


def test_what_a_device_failed_at_says_nothing() -> None:
    assert change(BEFORE, _rows({"b": 1.0, "d": None, "a": 9.0})) is None


def test_what_was_taken_again_stands_in_place_of_what_was() -> None:
    found = together(BEFORE, _rows({"b": 1.1, "d": 3.1, "a": 9.1}))
    assert {one["subnet"]: one["median_ms"] for one in found} == {"c": 4.0, "e": 2.0, "b": 1.1, "d": 3.1, "a": 9.1}
