"""Bring about what the hub wishes, one step after the other, and report each."""

from __future__ import annotations

import asyncio
import logging
import random

from milonga.v1 import agent_pb2, common_pb2

from milonga_agent import plan
from milonga_agent.bundles import Bundles
from milonga_agent.errors import AgentError, DiskFull, HubUnreachable, Superseded
from milonga_agent.memory import Memory
from milonga_agent.patience import backoff_seconds
from milonga_agent.plan import Outcome, Shadow, State, Step, WantedFile, Wish
from milonga_agent.pursuit import Pursuit, Tell, outcome_of
from milonga_agent.reports import Reports
from milonga_agent.serving import Serving

_log = logging.getLogger(__name__)


class Assignments:
    """Pursues the newest wish. `await assignments.run()` works until it is cancelled."""

    def __init__(self, memory: Memory, serving: Serving, bundles: Bundles, reports: Reports) -> None:
        self._memory = memory
        self._serving = serving
        self._bundles = bundles
        self._reports = reports
        self._random = random.Random()
        self._work = asyncio.Event()
        memory.listen(self._work.set)

    def accept(self, assignment: agent_pb2.Assignment) -> None:
        """Pursue what the hub wishes now, unless that is under way or has ended. Raises DiskFull or OSError."""
        self._memory.set(plan.accept(self._memory.state, wish_of(assignment)))

    async def run(self) -> None:
        bundles = self._bundles
        pursuit = Pursuit(bundles.depot, self._serving, bundles.courier, bundles.check, bundles.engines.build)
        bundles.collect()
        failures = 0
        while True:
            if self._memory.state.position.step is None:
                self._work.clear()
                await self._work.wait()
                continue
            try:
                self._memory.set(self._memory.state)
                await self._step(pursuit)
                failures = 0
            except (AgentError, OSError) as error:
                # The step is done again: nothing of it counts before it is written down.
                failures += 1
                _log.error("what the agent does cannot be written down: %s", error)
                await asyncio.sleep(backoff_seconds(failures, self._random))

    async def _step(self, pursuit: Pursuit) -> None:
        memory = self._memory
        step, began = memory.state.position.step, memory.state
        assert step is not None
        self._reports.tell(step, "STARTED")
        try:
            done = await pursuit.perform(began, self._progress(began))
        except Superseded as error:
            _log.info("%s: %s", step.value.lower(), error)
            return
        except HubUnreachable as error:
            # The network's absence is nobody's failure; it is waited out.
            _log.warning("%s: %s", step.value.lower(), error)
            await asyncio.sleep(backoff_seconds(2, self._random))
            return
        except (AgentError, OSError) as error:
            _log.error("%s failed: %s", step.value.lower(), error)
            self._reports.tell(step, "FAILED", str(error))
            if self._goes_on(began):
                memory.set(plan.advance(memory.state, outcome_of(step, error), str(error)))
            if isinstance(error, (DiskFull, OSError)):
                await asyncio.sleep(backoff_seconds(began.position.attempt, self._random))
            return
        if step is Step.ACTIVATE and began.wish.bundle:
            _log.info("serving %s on port %d", began.wish.model_version, self._serving.port)
        self._reports.tell(step, "SUCCEEDED", done.message, 1.0, done.moved)
        # A newer wish may have come meanwhile; then this step's success is of no use.
        if self._goes_on(began):
            memory.set(plan.advance(memory.state, Outcome.SUCCEEDED))
        if memory.state.position.step is None:
            self._bundles.collect()

    def _goes_on(self, began: State) -> bool:
        """Say whether the step is still wanted. What serves may have ended meanwhile, or have become steady."""
        now = self._memory.state
        return (now.wish, now.position) == (began.wish, began.position)

    def _progress(self, began: State) -> Tell:
        step = began.position.step
        assert step is not None
        report = self._reports.progress(step)

        def tell(fraction: float, said: str = "") -> None:
            # Half an hour is too long to wait for the end of what nobody wants any more.
            if step is Step.SHADOW and not self._goes_on(began):
                raise Superseded("the hub wishes something newer")
            report(fraction, said)

        return tell


def wish_of(assignment: agent_pb2.Assignment) -> Wish:
    """Return what the hub wishes."""
    return Wish(
        generation=assignment.generation,
        bundle=assignment.bundle,
        files=tuple(WantedFile(file.path, file.digest, file.size_bytes) for file in assignment.files),
        model_version=assignment.model_version,
        project=assignment.project,
        expected_ms=assignment.expected_ms,
        shadow=_shadow_of(assignment.shadow) if assignment.HasField("shadow") else None,
    )


def _shadow_of(spec: common_pb2.ShadowSpec) -> Shadow:
    given = {name: getattr(spec, name) for name in ("minutes", "max_disagreement", "share") if spec.HasField(name)}
    if spec.min_requests:
        given["min_requests"] = spec.min_requests
    return Shadow(**given, go_on=spec.too_few_requests == common_pb2.TOO_FEW_REQUESTS_GO_ON)
