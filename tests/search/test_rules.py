"""Whatever is chosen keeps every limit, and was measured."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.search.rules import choose, choose_level, timed

# Few values, so that limits are met exactly and candidates tie.
_FEW = st.integers(1, 4)
CANDIDATES = st.lists(
    st.fixed_dictionaries(
        {
            "subnet": st.sampled_from("abcdef"),
            "precision": st.sampled_from(["fp32", "int8"]),
            "accuracy": st.sampled_from([0.5, 0.6, 0.7]),
            "model_bytes": _FEW,
            "memory_bytes": _FEW,
            "level": _FEW,
        }
    ),
    unique_by=timed,
    max_size=6,
)
TIMES = st.dictionaries(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["fp32", "int8"])), _FEW.map(float))
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "latency_ms": st.none() | _FEW.map(float),
        "model_bytes": st.none() | _FEW,
        "memory_bytes": st.none() | _FEW,
        "min_accuracy": st.none() | st.sampled_from([0.5, 0.6, 0.7]),
    },
)


def _fits(one: dict[str, Any], times: dict[tuple[str, str], float], limits: dict[str, Any]) -> bool:
    if timed(one) not in times:
        return False
    figures = {**one, "latency_ms": times[timed(one)]}
    most = ("latency_ms", "model_bytes", "memory_bytes")
    floor = limits.get("min_accuracy")
    return all(limits.get(name) is None or figures[name] <= limits[name] for name in most) and (
        floor is None or one["accuracy"] >= floor
    )


@given(CANDIDATES, TIMES, LIMITS)
def test_what_is_chosen_keeps_every_limit_as_measured_and_nothing_that_does_is_better(
    candidates: list[dict[str, Any]], times: dict[tuple[str, str], float], limits: dict[str, Any]
) -> None:
    fitting = [one for one in candidates if _fits(one, times, limits)]
    chosen, level = choose(candidates, times, limits), choose_level(candidates, times, limits)
    assert (chosen is None) == (level is None) == (not fitting)
    if chosen is not None and level is not None:
        assert chosen in fitting and chosen["accuracy"] == max(one["accuracy"] for one in fitting)
        assert level in fitting and level["level"] == max(one["level"] for one in fitting)
