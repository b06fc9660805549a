"""Do what operators want of this device beside its model: start anew, profile, upgrade. Counts, so that nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from milonga.v1 import agent_pb2
from milonga.waiting import within

from milonga_agent.errors import AgentError, Refused, Untrusted
from milonga_agent.patience import backoff_seconds
from milonga_agent.state import Store

_log = logging.getLogger(__name__)


class StartAnew(Exception):
    """An operator wants the agent to start anew; it stops in order first."""


class Caring:
    """Brings the counts on this device up to those that are wanted. `await caring.run()` works until it is cancelled."""

    def __init__(
        self,
        store: Store,
        profile: Callable[[int], Awaitable[None]],
        upgrade: Callable[[agent_pb2.AgentRelease], Awaitable[bool]],
        tell_status: Callable[[], None],
        problem: str = "",
    ) -> None:
        """`upgrade` takes a release and says whether the agent shall start anew for it; `problem` is what became of the last one."""
        self._store = store
        self._profile = profile
        self._upgrade = upgrade
        self._tell_status = tell_status
        # Why the last upgrade was not made, or did not last; "" where it was.
        self.problem = problem
        self._wanted = agent_pb2.Care()
        self._woken = asyncio.Event()
        self._random = random.Random()

    def want(self, care: agent_pb2.Care) -> None:
        """Hear how often operators have wanted what, in all."""
        self._wanted = care
        self._woken.set()

    async def run(self) -> None:
        """Raises StartAnew when the agent shall start anew."""
        failures = 0
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._catch_up(self._wanted)
                failures = 0
            except (AgentError, OSError) as error:
                failures += 1
                seconds = backoff_seconds(failures, self._random)
                _log.error("what an operator wants could not be done: %s; trying again in %.1f s", error, seconds)
                with contextlib.suppress(asyncio.TimeoutError):
                    await within(self._woken.wait(), seconds)
                self._woken.set()

    async def _catch_up(self, wanted: agent_pb2.Care) -> None:
        done = self._store.care()
        if wanted.profiles > done.profiles:
            _log.info("profiling again, as an operator wants")
            await self._profile(wanted.profiles)
            self._store.keep_care(done._replace(profiles=wanted.profiles))
            self._tell_status()
        done = self._store.care()
        upgraded = wanted.upgrades > done.upgrades and wanted.HasField("release") and await self._take(wanted)
        done = self._store.care()
        if upgraded or wanted.restarts > done.restarts:
            # First: an agent that dies here must not start anew for ever.
            self._store.keep_care(done._replace(restarts=max(done.restarts, wanted.restarts)))
            raise StartAnew("starting the new agent" if upgraded else "an operator wants the agent to start anew")

    async def _take(self, wanted: agent_pb2.Care) -> bool:
        """Take the release; return whether there is something new to start. What cannot be better next time is done with."""
        _log.info("upgrading the agent, as an operator wants")
        try:
            taken, self.problem = await self._upgrade(wanted.release), ""
        except (Refused, Untrusted) as error:
            taken, self.problem = False, f"the agent was not upgraded: {error}"
            _log.error("%s", self.problem)
        self._store.keep_care(self._store.care()._replace(upgrades=wanted.upgrades))
        self._tell_status()
        return taken
