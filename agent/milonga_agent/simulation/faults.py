"""When faults begin and end. Pure: decided from the fault and the time since the simulation began."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from milonga_agent.plan import Step
from milonga_agent.simulation.spec import Fault, FaultKind, UpgradeEnd


def is_on(fault: Fault, seconds: float) -> bool:
    """Say whether the fault holds at this time."""
    since = seconds - fault.at_seconds
    if since < 0.0:
        return False
    if fault.every_seconds is not None:
        since %= fault.every_seconds
    return fault.for_seconds is None or since < fault.for_seconds


def begun(fault: Fault, seconds: float) -> int:
    """Return how often the fault has begun until this time."""
    since = seconds - fault.at_seconds
    if since < 0.0:
        return 0
    return 1 if fault.every_seconds is None else 1 + int(since // fault.every_seconds)


@dataclass(frozen=True)
class Condition:
    """What all faults that strike a device now come to."""

    offline: bool = False
    slowness: float = 1.0
    failing: tuple[tuple[Step, str], ...] = ()
    clock_hours: float = 0.0
    flood_per_second: float = 0.0
    shift: float = 0.0
    throttled: bool = False
    # How an upgrade of the agent ends, and what the device says of that; None where it ends well.
    upgrade: tuple[UpgradeEnd, str] | None = None

    def why_failing(self, step: Step) -> str | None:
        """Return what the device says of this step's failure, None where it does not fail."""
        return next((message for failing, message in self.failing if failing is step), None)


WELL = Condition()


def condition(faults: Iterable[Fault]) -> Condition:
    """Return what these faults come to together."""
    slowness, clock_hours, flood, shift, offline, throttled = 1.0, 0.0, 0.0, 0.0, False, False
    failing, upgrade = [], None
    for fault in faults:
        if fault.kind is FaultKind.OFFLINE:
            offline = True
        elif fault.kind in (FaultKind.SLOW, FaultKind.THROTTLED):
            slowness *= fault.factor
            throttled = throttled or fault.kind is FaultKind.THROTTLED
        elif fault.kind is FaultKind.FAILING:
            failing.append((fault.step, fault.message or f"simulated: {fault.step.value.lower()} failed"))
        elif fault.kind is FaultKind.CLOCK:
            clock_hours += fault.hours
        elif fault.kind is FaultKind.FLOOD:
            flood += fault.messages_per_second
        elif fault.kind is FaultKind.DRIFT:
            shift += fault.shift
        elif fault.kind is FaultKind.UPGRADE and upgrade is None:
            upgrade = fault.ends, fault.message
    return Condition(offline, slowness, tuple(failing), clock_hours, flood, shift, throttled, upgrade)
