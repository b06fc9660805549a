"""One action for many devices: those that are ticked, or all that a selector matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from milonga_hub import callers
from milonga_hub.devices.rules import labels_of_text
from milonga_hub.errors import InvalidInput, MilongaError
from milonga_hub.rollouts.models import Rollout
from milonga_hub.rollouts.rules_agents import AgentRolloutSpec
from milonga_hub.web.language import N_
from milonga_hub.web.services import HubServices

# Each is a change of its own, with its own line in the audit log.
MOST_AT_ONCE = 1000
# The hub works it off as a rollout, some at a time.
UPGRADE = "upgrade"
VERBS = {
    "restart": N_("Restart the agents"),
    "profile": N_("Profile again"),
    UPGRADE: N_("Upgrade the agents"),
    "pin": N_("Keep their versions"),
    "unpin": N_("Let go of their versions"),
    "label": N_("Set labels"),
}


_NOBODY = "no device is chosen; tick some, or choose all that match"


@dataclass(frozen=True)
class Outcome:
    """What became of an action; `problem` is why the first of those that failed did."""

    verb: str
    done: int
    failed: int
    problem: str = ""


def upgrade(hub: HubServices, names: Sequence[str], selector: str, everything: bool, batch: str) -> Rollout:
    """Begin to upgrade the agents of these devices, `batch` at a time ("": all). Raises InvalidInput or FailedPrecondition."""
    if not everything and not names:
        raise InvalidInput(_NOBODY)
    if batch.strip() and not (batch.strip().isdecimal() and int(batch) > 0):
        raise InvalidInput(f"{batch!r} is no number of devices; write 1 or more, or leave it empty for all at once")
    wanted = selector if everything else f"name in ({', '.join(names)})"
    return hub.rollouts.upgrade_agents(wanted, AgentRolloutSpec(max_concurrent=int(batch or 0)))


def apply(
    hub: HubServices, verb: str, names: Sequence[str], selector: str, everything: bool, labels: str, address: str
) -> Outcome:
    """Do it to each device and return what became of it. Raises InvalidInput for what cannot be begun."""
    if verb not in VERBS or verb == UPGRADE:
        raise InvalidInput(f"{verb!r} is no action; choose {', '.join(VERBS)}")
    wanted = [each.name for each in hub.devices.outlines(selector, with_revoked=False)] if everything else list(names)
    if not wanted:
        raise InvalidInput(_NOBODY)
    if len(wanted) > MOST_AT_ONCE:
        raise InvalidInput(
            f"{len(wanted)} devices are too many at once; narrow them down to {MOST_AT_ONCE} by a selector"
        )
    act = _action(hub, verb, labels)
    done, problems = 0, []
    for name in wanted:
        try:
            act(name)
            done += 1
            outcome = "OK"
        except MilongaError as error:
            problems.append(f"{name}: {error}")
            outcome = error.reason
        _record(hub, f"POST /devices/{{name}}/{verb}", f"/devices/{name}/{verb}", outcome, address)
    return Outcome(verb, done, len(problems), problems[0] if problems else "")


def _action(hub: HubServices, verb: str, labels: str) -> Callable[[str], object]:
    given = labels_of_text(labels) if verb == "label" else {}
    if verb == "label" and not given:
        raise InvalidInput("which labels? write KEY=VALUE, several with commas between them; KEY= takes one away")
    actions: dict[str, Callable[[str], object]] = {
        "restart": hub.devices.restart,
        "profile": hub.devices.profile,
        "pin": hub.devices.pin,
        "unpin": hub.devices.unpin,
        "label": lambda name: hub.devices.update_labels(name, given),
    }
    return actions[verb]


def _record(hub: HubServices, operation: str, resource: str, outcome: str, address: str) -> None:
    caller = callers.current()
    if caller is not None:
        hub.accounts.audit.add(caller, operation, resource, outcome, address)
