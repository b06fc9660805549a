"""Rollouts: create them, look at them, stop them and take them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from milonga_hub.callers import by_whom
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition
from milonga_hub.events import EventBus
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts import rules_agents
from milonga_hub.rollouts.carrying import Carrier
from milonga_hub.rollouts.models import (
    LEFT_OUT,
    LIVE,
    OPEN,
    PAUSED_BY_HAND,
    Rollout,
    RolloutDevice,
    RolloutDeviceState,
    RolloutState,
)
from milonga_hub.rollouts.needs import Asked, Builds, Devices
from milonga_hub.rollouts.planning import Planner
from milonga_hub.rollouts.records import Records
from milonga_hub.rollouts.rules import counted

# Events tell who waits; this is how long a missed one could matter.
_POLL_SECONDS = 5.0

# RolloutService.list hides the builtin inside the class.
_Rollouts = list[Rollout]
_Devices = list[RolloutDevice]
_Ids = list[str]


class RolloutService:
    """What people and runs do with rollouts. `run` carries them forward meanwhile."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        devices: Devices,
        builds: Builds,
        clock: Callable[[], datetime] = utc_now,
        asked: Asked = lambda project, since, until: {},
    ) -> None:
        self._events = events
        self._clock = clock
        self._records = Records(database, events, clock)
        self._planner = Planner(self._records, devices, builds, clock)
        self._carrier = Carrier(self._records, self._planner, events, devices, builds, clock, asked)

    async def run(self) -> None:
        """Carry all running rollouts forward, for ever: after any news, and when a soak is over."""
        await self._carrier.run()

    def advance(self, follow: bool = True) -> float:
        """Do for every running rollout what can be done now; return the seconds until there may be more.

        With `follow`, look after devices that come late or join later where a project's newest rollout has succeeded, too.
        """
        return self._carrier.advance(follow)

    def create(
        self, model_version: str, project: str, selector: str, spec: RolloutSpec, request_id: str = ""
    ) -> Rollout:
        """Plan the waves and begin, or wait for approval. An open rollout of the same project ends here, superseded."""
        with self._records.changing:
            known = self._records.requested(request_id)
            if known is not None:
                return known
            rollout = self._planner.plan(model_version, project, selector, spec)
            rollout.request_id = request_id
            superseded = self._records.open_ones(project)
            for each in superseded:
                each.enter(RolloutState.ABORTED, f"superseded by {rollout.id}", self._clock())
            self._records.save(superseded, [rollout])
        self._records.tell(*superseded, rollout)
        return rollout

    def upgrade_agents(
        self,
        selector: str,
        spec: rules_agents.AgentRolloutSpec | None = None,
        request_id: str = "",
        rehearse: bool = False,
    ) -> Rollout:
        """Plan how devices take the hub's agent and begin, or with `rehearse` only say what would be done.

        Raises FailedPrecondition while another such rollout is open: which of the two a device belongs to would be hard to tell.
        """
        with self._records.changing:
            known = self._records.requested(request_id)
            if known is not None:
                return known
            rollout = self._planner.plan_agents(selector, spec or rules_agents.AgentRolloutSpec())
            if rehearse:
                return self._planner.rehearse(rollout)
            for each in self._records.open_ones(""):
                raise FailedPrecondition(
                    f"{each.id} upgrades agents and is {each.state.lower()}; let it end, or end it: milonga rollouts abort {each.id}"
                )
            rollout.request_id = request_id
            self._records.save([], [rollout])
        self._records.tell(rollout)
        return rollout

    def rehearse(self, model_version: str, project: str, selector: str, spec: RolloutSpec) -> Rollout:
        """Return what `create` would make now, and for each device what it would wait for; nothing is kept."""
        return self._planner.rehearse(self._planner.plan(model_version, project, selector, spec))

    def get(self, id: str) -> Rollout:
        return self._records.get(id)

    def list(
        self, project: str = "", page_size: int = 0, page_token: str = "", projects: Collection[str] | None = None
    ) -> tuple[_Rollouts, str]:
        """Return rollouts, the newest first."""
        return self._records.list(project, page_size, page_token, projects)

    def headlines(
        self, project: str = "", model_version: str = "", page_size: int = 0, page_token: str = ""
    ) -> tuple[_Rollouts, str]:
        """Return rollouts without their devices (reading those raises), the newest first."""
        return self._records.headlines(project, model_version, page_size, page_token)

    def newest_id(self, project: str) -> str:
        """Return the id of the project's newest rollout, of that of agents for "", and "" where there is none."""
        return self._records.newest_id(project)

    def current_ids(self, project: str) -> _Ids:
        """Return the ids of the project's newest rollout, and of others that are open; "" is the project of agents."""
        return self._records.current_ids(project)

    def since(self, moment: datetime) -> _Rollouts:
        """Return the rollouts that came into their state since then."""
        return self._records.since(moment)

    def pause(self, id: str) -> Rollout:
        """Begin no further wave; devices that have their assignment finish it."""
        return self._enter(id, (RolloutState.RUNNING,), RolloutState.PAUSED, PAUSED_BY_HAND)

    def approve(self, id: str) -> Rollout:
        """Let a rollout begin that waits for a person."""
        return self._enter(id, (RolloutState.AWAITING_APPROVAL,), RolloutState.RUNNING)

    def resume(self, id: str) -> Rollout:
        """Go on, and let devices that failed try again."""
        return self._enter(id, (RolloutState.PAUSED,), RolloutState.RUNNING, again=True)

    def retry(self, id: str) -> Rollout:
        """Let the devices that failed try again, and no others; a paused rollout goes on."""
        with self._records.changing:
            rollout = self.get(id)
            if rollout.state is RolloutState.PAUSED:
                return self.resume(id)
            # Those of agents stand beside each other.
            superseded = not rollout.agent_version and rollout.id not in self._records.looked_after()
            if rollout.state in LIVE and superseded:
                raise FailedPrecondition(f"a newer rollout of {rollout.project} took the place of {rollout.id}")
            devices = _tried_again(rollout.devices)
            if devices == rollout.devices:
                raise FailedPrecondition(f"no device of rollout {rollout.id} has failed")
            _check(rollout, LIVE)
            rollout.devices, rollout.waves = devices, counted(rollout.waves, devices)
            self._records.save([rollout])
        self._records.tell(rollout)
        return rollout

    def abort(self, id: str) -> Rollout:
        """End for good. Devices that have not begun keep what they have; those on their way finish by themselves."""
        return self._enter(id, OPEN, RolloutState.ABORTED, by_whom("aborted"))

    def roll_back(self, id: str) -> Rollout:
        """End the newest rollout of a project, and let devices that were given its version go back to what each had before.

        Returns the rollout that does so; asked again, the same. Raises FailedPrecondition where there is nothing to go back to.
        """
        with self._records.changing:
            rollout = self.get(id)
            newest = self.get(self.newest_id(rollout.project))
            if newest.rolls_back == rollout.id:
                return newest
            back = self._planner.back(rollout)
            if rollout.state is RolloutState.ABORTED:
                rollout.reason = f"rolled back by {back.id}"
            else:
                # Also one that has succeeded: newcomers shall not get it.
                rollout.enter(RolloutState.ABORTED, f"rolled back by {back.id}", self._clock())
            self._records.save([rollout], [back])
        self._records.tell(rollout, back)
        return back

    async def finished(self, id: str) -> Rollout:
        """Return the rollout once it has succeeded, was aborted, or is paused and needs a person."""
        name = self.get(id).id
        with self._events.listen(f"rollouts/{name}") as events:
            while True:
                rollout = self.get(name)
                if rollout.state not in (RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL):
                    return rollout
                with contextlib.suppress(TimeoutError):
                    await events.next(_POLL_SECONDS)

    def _enter(
        self, id: str, allowed: Sequence[RolloutState], state: RolloutState, reason: str = "", again: bool = False
    ) -> Rollout:
        """Let a rollout come into a state, and with `again` let its devices that failed try again."""
        with self._records.changing:
            rollout = self.get(id)
            _check(rollout, allowed)
            rollout.enter(state, reason, self._clock())
            if again:
                rollout.devices = _tried_again(rollout.devices)
            self._records.save([rollout])
        self._records.tell(rollout)
        return rollout


def _check(rollout: Rollout, allowed: Sequence[RolloutState]) -> None:
    if rollout.state not in allowed:
        *others, last = (_said(state) for state in sorted(allowed))
        wanted = f"{', '.join(others)} or {last}" if others else last
        # Of one that goes on, the reason is what it waits for.
        why = f": {rollout.reason}" if rollout.state in (RolloutState.PAUSED, RolloutState.ABORTED) else ""
        raise FailedPrecondition(f"rollout {rollout.id} is {_said(rollout.state)}, not {wanted}{why}")


def _said(state: RolloutState) -> str:
    return state.lower().replace("_", " ")


def _tried_again(devices: Sequence[RolloutDevice]) -> _Devices:
    """Return the devices with those that failed as if they had not begun."""
    fresh = {"state": RolloutDeviceState.WAITING, "generation": 0, "step": None, "message": "", "shadow": ""}
    return [
        device.model_copy(update={**fresh, "since_generation": device.generation})
        if device.wave != LEFT_OUT and device.state is RolloutDeviceState.FAILED
        else device
        for device in devices
    ]
