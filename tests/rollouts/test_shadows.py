"""What shadows came to, out of the words of the agent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_agent.comparing import Comparison, judge
from milonga_agent.errors import BadBundle
from milonga_agent.plan import Shadow
from milonga_hub.rollouts.models import RolloutDevice
from milonga_hub.rollouts.rules_shadows import Compared, Together, compared, together


def _device(name: str = "pi", shadow: str = "", message: str = "") -> RolloutDevice:
    return RolloutDevice(device=name, wave=0, shadow=shadow, message=message)


@given(
    requests=st.integers(1, 10**6),
    skipped=st.integers(0, 100),
    failed=st.integers(0, 100),
    agreeing=st.integers(0, 1000),
    milliseconds=st.floats(0, 1000),
)
def test_what_an_agent_says_of_its_shadow_is_understood(
    requests: int, skipped: int, failed: int, agreeing: int, milliseconds: float
) -> None:
    said = str(Comparison(requests, skipped, failed, 1000, agreeing, milliseconds, milliseconds))
    seen = compared(_device(shadow=said))
    assert seen is not None and seen.requests == requests
    assert seen.differing == pytest.approx(1 - agreeing / 1000)


def test_one_that_failed_by_its_shadow_says_so_in_its_message() -> None:
    with pytest.raises(BadBundle) as refused:
        judge(Shadow(minutes=1, min_requests=1, max_disagreement=0.1), Comparison(50, answers=50, agreeing=25))
    assert compared(_device(message=f"SHADOW: {refused.value}")) == Compared(50, 0.5)


@given(st.text(max_size=500))
def test_other_words_are_no_figures(said: str) -> None:
    assert compared(_device(shadow=said)) is None
    assert together([_device(shadow=said), _device(message=said)]) is None


def test_several_are_told_together_with_the_one_that_differs_most() -> None:
    said = [str(Comparison(requests=100, answers=100, agreeing=agreeing)) for agreeing in (100, 90, 99)]
    devices = [_device(f"pi-{number}", shadow=each) for number, each in enumerate(said)]
    assert together([*devices, _device("new")]) == Together(3, 300, 0.01, 0.1, "pi-1")
