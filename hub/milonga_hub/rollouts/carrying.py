"""The loop that carries rollouts forward, step by step; a hub that restarts goes on where the last one stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from milonga_hub import tracing
from milonga_hub.devices.service import Standing
from milonga_hub.errors import FailedPrecondition
from milonga_hub.events import EventBus
from milonga_hub.rollouts.assigning import Assigner
from milonga_hub.rollouts.models import LIVE, Rollout, RolloutState, Wave
from milonga_hub.rollouts.needs import Asked, Builds, Devices, Requests
from milonga_hub.rollouts.planning import Planner
from milonga_hub.rollouts.records import Records
from milonga_hub.rollouts.reporting import Reporter
from milonga_hub.rollouts.rules import (
    Assign,
    EndWave,
    Pause,
    RollBack,
    Succeed,
    Wait,
    left_out,
    next_action,
    observed,
)
from milonga_hub.rollouts.rules_failures import too_many_failures
from milonga_hub.rollouts.rules_requests import FEW_REQUESTS, without
from milonga_hub.rollouts.rules_waves import joined

_log = logging.getLogger(__name__)

# Events wake the loop; this is how long a missed one could matter.
_POLL_SECONDS = 5.0
# News of many devices at once is looked at together.
_SETTLE_SECONDS = 0.05
# After news of devices, rollouts that have succeeded are looked at this often at most; without news, so often.
_FOLLOW_SECONDS = 5.0
_FOLLOW_IDLE_SECONDS = 60.0


class Carrier:
    def __init__(
        self,
        records: Records,
        planner: Planner,
        events: EventBus,
        devices: Devices,
        builds: Builds,
        clock: Callable[[], datetime],
        asked: Asked,
    ) -> None:
        self._records = records
        self._planner = planner
        self._events = events
        self._devices = devices
        self._asked = asked
        self._assigner = Assigner(devices, builds)
        self._reporter = Reporter(devices)
        self._clock = clock

    async def run(self) -> None:
        """Carry all running rollouts forward, for ever: after any news, and when a soak is over."""
        news, followed_at = True, -math.inf
        with self._events.listen("devices/", "steps/", "rollouts/") as events:
            while True:
                now = time.monotonic()
                follow = now - followed_at >= (_FOLLOW_SECONDS if news else _FOLLOW_IDLE_SECONDS)
                if follow:
                    news, followed_at = False, now
                # In a thread: a large fleet takes a while, and its streams go on.
                wait = await asyncio.to_thread(self.advance, follow)
                # While a wave is under way there is always news: looking at it takes half of the time at most.
                settle_seconds = max(_SETTLE_SECONDS, time.monotonic() - now)
                with contextlib.suppress(TimeoutError):
                    await events.next(min(wait, _POLL_SECONDS))
                    news = True
                    await asyncio.sleep(settle_seconds)
                    events.waiting()

    def advance(self, follow: bool = True) -> float:
        """Do for every rollout what can be done now; return the seconds until there may be more.

        With `follow`, look after devices that come late or join later where a project's newest rollout has succeeded, too.
        """
        waits = [_POLL_SECONDS]
        for id, state in self._records.looked_after().items():
            if state is RolloutState.SUCCEEDED and not follow:
                continue
            try:
                until = self._advance(id)
            except Exception:
                # One rollout that cannot go on does not hold up the others; it is tried again.
                _log.exception("rollout %s could not go on", id)
                continue
            if until is not None:
                waits.append(max(0.01, (until - self._clock()).total_seconds()))
        return min(waits)

    def _advance(self, id: str) -> datetime | None:
        with self._records.changing:
            rollout = self._records.get(id)
            before, made = rollout.model_dump(), list[Rollout]()
            with tracing.span("rollout step", rollout=rollout.id):
                until = self._step(rollout, made)
            if rollout.model_dump() == before:
                return until
            self._records.save([rollout], made)
        self._records.tell(rollout, *made)
        return until

    def _step(self, rollout: Rollout, made: list[Rollout]) -> datetime | None:
        """Apply actions until there is one to wait for; return the time to look again. Adds what takes this one back to `made`."""
        # Read once: what is done here changes nothing of it that would be looked at.
        fleet = {device.name: device for device in self._devices.standings()}
        claims = self._records.claims(rollout)
        # First: what the rollout did and could not note is not to be taken for another's doing.
        now = self._clock()
        reports = self._reporter.reports(rollout, fleet, now)
        rollout.devices, rollout.waves = observed(rollout, reports, now, claims)
        if rollout.state not in LIVE:
            return None
        # Who joins later has the agent of the day that it was installed.
        may_join = rollout.selector is not None and not rollout.agent_version
        if may_join and not too_many_failures(rollout):
            entrants = self._planner.entrants(rollout, [*fleet.values()], claims)
            rollout.devices, rollout.waves = joined(rollout, entrants)
        asked = self._asked_since_it_runs(rollout)
        while rollout.state in LIVE:
            now = self._clock()
            reports = self._reporter.reports(rollout, fleet, now)
            rollout.devices, rollout.waves = observed(rollout, reports, now, claims)
            match next_action(rollout, reports, now, asked):
                case Assign(_, names):
                    release = self._devices.agent_release().version if rollout.agent_version else ""
                    if release == rollout.agent_version:
                        self._assign(rollout, names, fleet, now)
                    else:
                        _bring_no_other(rollout, names, release, now)
                case EndWave(wave):
                    rollout.waves = _with_wave(rollout.waves, wave, soaked_at=now)
                case Wait(reason, until):
                    rollout.reason = reason
                    return until
                case Pause(reason):
                    rollout.enter(RolloutState.PAUSED, reason, now)
                case RollBack(reason):
                    try:
                        back = self._planner.back(rollout)
                    except FailedPrecondition as error:
                        why = f"{reason}; it could not be rolled back: {error}"
                        rollout.enter(RolloutState.PAUSED, why, now)
                    else:
                        made.append(back)
                        rollout.enter(RolloutState.ABORTED, f"rolled back by {back.id}: {reason}", now)
                case Succeed(reason):
                    if rollout.state is not RolloutState.SUCCEEDED:
                        rollout.enter(RolloutState.SUCCEEDED, reason, now)
                    rollout.reason = reason
                    return None
        return None

    def _asked_since_it_runs(self, rollout: Rollout) -> Mapping[str, Requests]:
        """Return what clients asked by version, since it began or was resumed; nothing where that decides nothing.

        Of other versions since a day before, where devices without this one were hardly asked since.
        """
        began = min((wave.started_at for wave in rollout.waves if wave.started_at is not None), default=None)
        if rollout.spec.max_error_increase is None or rollout.state is not RolloutState.RUNNING or began is None:
            return {}
        if rollout.state_at is not None and rollout.state_at > began:
            # They are counted by the minute: those of the minute in which it was resumed have been judged.
            began = rollout.state_at + timedelta(minutes=1)
        asked = self._asked(rollout.project, began, self._clock())
        if without(rollout.model_version, asked).total >= FEW_REQUESTS:
            return asked
        earlier = self._asked(rollout.project, began - timedelta(days=1), self._clock())
        return {**earlier, rollout.model_version: asked.get(rollout.model_version, Requests())}

    def _assign(self, rollout: Rollout, names: Sequence[str], fleet: Mapping[str, Standing], now: datetime) -> None:
        # Safe to repeat after a crash: a wish that was made keeps its generation.
        chosen = set(names)
        wanted = [each for each in rollout.devices if each.device in chosen]
        generations = self._assigner.assign(rollout, wanted, fleet)
        rollout.devices = [
            each.model_copy(update={"generation": generations[each.device], "updated_at": now})
            if each.device in generations
            else each
            for each in rollout.devices
        ]
        for wave in {each.wave for each in wanted}:
            if rollout.waves[wave].started_at is None:
                rollout.waves = _with_wave(rollout.waves, wave, started_at=now)


def _bring_no_other(rollout: Rollout, names: Sequence[str], release: str, now: datetime) -> None:
    """Tell nobody to take another release of the agent than the one that the first waves tried: the hub has a new one."""
    if rollout.state is RolloutState.RUNNING:
        why = f"the hub's agent is {release} by now, which this rollout does not bring; abort it and upgrade anew"
        rollout.enter(RolloutState.PAUSED, why, now)
        return
    why = f"it came when the hub's agent was {release} already; upgrade it anew"
    chosen = set(names)
    rollout.devices = [left_out(each, now, message=why) if each.device in chosen else each for each in rollout.devices]


def _with_wave(waves: Sequence[Wave], index: int, **values: datetime) -> list[Wave]:
    return [wave.model_copy(update=values) if wave.index == index else wave for wave in waves]
