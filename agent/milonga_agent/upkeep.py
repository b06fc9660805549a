"""Keep the last good bundle served: start its worker again when it ends, and fall back where it keeps ending."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from milonga_agent import plan
from milonga_agent.errors import AgentError
from milonga_agent.plan import State, Step
from milonga_agent.serving import Serving
from milonga_agent.steps import Depot
from milonga_agent.workers import Worker

_log = logging.getLogger(__name__)

# Whatever serves for so long has started well.
STEADY_SECONDS = 60.0
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
# While these are under way, what serves is the bundle that they bring.
_CHANGING = (Step.ACTIVATE, Step.COMMIT, Step.ROLL_BACK)


class Upkeep:
    """Watches the worker that serves. `state` and `keep` read and write what the agent remembers."""

    def __init__(
        self,
        serving: Serving,
        depot: Depot,
        state: Callable[[], State],
        keep: Callable[[State], None],
        tell: Callable[..., None],
    ) -> None:
        """`tell(step, "SUCCEEDED" | "FAILED", message)` reports to the hub; `tell()` that something else serves now."""
        self._serving = serving
        self._depot = depot
        self._state = state
        self._keep = keep
        self._tell = tell
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look again: what is wanted may have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            worker = self._serving.active
            if worker is not None and worker.alive:
                await self._watch(worker)
            elif self._state().active.bundle and self._state().position.step not in _CHANGING:
                await self._start()
            else:
                self._woken.clear()
                await self._woken.wait()

    async def _watch(self, worker: Worker) -> None:
        """Return when the worker has ended; count it as steady when it has served for long."""
        ended = asyncio.ensure_future(worker.process.wait())
        try:
            done, _ = await asyncio.wait([ended], timeout=STEADY_SECONDS)
            if not done:
                if worker.wish.bundle == self._state().active.bundle:
                    self._keep(plan.steady(self._state()))
                await ended
        finally:
            ended.cancel()
        if self._serving.active is worker:
            _log.error("the worker of %s ended with exit code %s", worker.wish.model_version, worker.process.returncode)
            self._tell()

    async def _start(self) -> None:
        before = self._state()
        state = plan.start(before)
        self._keep(state)
        if state.active != before.active:
            _log.error("%s", state.message)
            self._tell(Step.ACTIVATE, "FAILED", state.message)
            self._tell(Step.ROLL_BACK, "SUCCEEDED", state.message)
        wish = state.active
        if state.starts > 1:
            await self._wait(state.starts)
        try:
            await self._serving.activate(wish, self._depot.bundle(wish.bundle))
        except (AgentError, OSError) as error:
            _log.error("cannot serve %s again: %s", wish.model_version, error)
            return
        _log.info("serving %s again on port %d", wish.model_version, self._serving.port)
        self._tell()

    async def _wait(self, starts: int) -> None:
        """Wait longer each time, so that a bundle that cannot start does not keep the device busy."""
        await asyncio.sleep(min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** min(starts - 2, 10)))
