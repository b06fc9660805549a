"""When faults hold, and what several of them come to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from milonga_agent.plan import Step
from milonga_agent.simulation.faults import WELL, begun, condition, is_on
from milonga_agent.simulation.spec import Fault, FaultKind, UpgradeEnd


def _times(fault: Fault, until: int) -> list[int]:
    return [second for second in range(until) if is_on(fault, float(second))]


def test_a_fault_without_times_holds_from_the_beginning_to_the_end() -> None:
    assert _times(Fault(FaultKind.SLOW), 5) == [0, 1, 2, 3, 4]


def test_a_fault_holds_for_as_long_as_it_says() -> None:
    assert _times(Fault(FaultKind.OFFLINE, at_seconds=3, for_seconds=2), 10) == [3, 4]


def test_a_fault_comes_again_as_often_as_it_says() -> None:
    fault = Fault(FaultKind.OFFLINE, at_seconds=1, for_seconds=2, every_seconds=4)
    assert _times(fault, 12) == [1, 2, 5, 6, 9, 10]
    assert [begun(fault, second) for second in (0.9, 1.0, 4.9, 5.0)] == [0, 1, 1, 2]


@given(st.floats(0, 1e4), st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.lists(st.floats(0, 1e5), min_size=2, max_size=2))
def test_a_fault_never_begins_less_often_as_time_goes_on(
    at: float, lasting: float, pause: float, moments: list[float]
) -> None:
    fault = Fault(FaultKind.OFFLINE, at_seconds=at, for_seconds=lasting, every_seconds=lasting + pause)
    earlier, later = sorted(moments)
    assert 0 <= begun(fault, earlier) <= begun(fault, later)
    assert not is_on(fault, earlier) or begun(fault, earlier) > 0


def test_faults_add_up() -> None:
    both = condition(
        [
            Fault(FaultKind.SLOW, factor=2.0),
            Fault(FaultKind.THROTTLED, factor=3.0),
            Fault(FaultKind.CLOCK, hours=-5.0),
            Fault(FaultKind.FLOOD, messages_per_second=7.0),
            Fault(FaultKind.DRIFT, shift=0.5),
            Fault(FaultKind.FAILING, step=Step.INSTALL, message="no space"),
            Fault(FaultKind.UPGRADE, ends=UpgradeEnd.REFUSED, message="no room"),
        ]
    )
    assert both.slowness == 6.0 and both.clock_hours == -5.0 and not both.offline and both.throttled
    assert both.flood_per_second == 7.0 and both.shift == 0.5
    assert both.why_failing(Step.INSTALL) == "no space"
    assert both.why_failing(Step.PROBE) is None
    assert both.upgrade == (UpgradeEnd.REFUSED, "no room")
    assert condition([]) == WELL
