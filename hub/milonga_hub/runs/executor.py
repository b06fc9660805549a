"""Runs the queued runs, one at a time for each project, and goes on with interrupted ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from milonga_hub.errors import DatabaseUnreachable, MilongaError
from milonga_hub.fencing import LeadLost
from milonga_hub.jobs import JobCrashed
from milonga_hub.runs.models import Run, RunState
from milonga_hub.runs.service import RunService

_log = logging.getLogger(__name__)

# A job that dies three times in a row (out of memory, most often) will die again.
MAX_CRASHES = 3
_AGAIN_SECONDS = 1.0


class Executor:
    """`work(run)` does a run from wherever it stands and returns its outcome in words."""

    def __init__(self, runs: RunService, work: Callable[[Run], Awaitable[str]]) -> None:
        self._runs = runs
        self._work = work
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; what is in progress then goes on at the next start."""
        loop = asyncio.get_running_loop()

        def queued() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        def cancelled(name: str) -> None:
            loop.call_soon_threadsafe(self._cancel, name)

        self._runs.on_queued, self._runs.on_cancelled = queued, cancelled
        try:
            while True:
                self._wake.clear()
                self._begin_waiting()
                await self._wake.wait()
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin_waiting(self) -> None:
        busy = {name.rpartition("/runs/")[0] for name in self._tasks}
        for run in self._runs.unfinished():
            project = run.name.rpartition("/runs/")[0]
            if project not in busy:
                busy.add(project)
                self._tasks[run.name] = asyncio.create_task(self._execute(run), name=run.name)

    def _cancel(self, name: str) -> None:
        if name in self._tasks:
            self._tasks[name].cancel()

    async def _execute(self, run: Run) -> None:
        try:
            await self._attempt(run)
        except (DatabaseUnreachable, LeadLost) as error:
            # It is as if the hub had ended: whoever leads next, this one or another, goes on with it.
            _log.warning("%s is interrupted: %s", run.name, error)
            await asyncio.sleep(_AGAIN_SECONDS)
        except MilongaError as error:
            self._runs.end(run.name, RunState.FAILED, error=str(error))
        except Exception as error:
            _log.exception("%s failed", run.name)
            self._runs.end(run.name, RunState.FAILED, error=f"a fault of the hub ended the run: {error!r}; see its log")
        finally:
            self._tasks.pop(run.name, None)
            self._wake.set()

    async def _attempt(self, run: Run) -> None:
        self._runs.change(run.name, state=RunState.RUNNING)
        for crash in range(1, MAX_CRASHES + 1):
            try:
                outcome = await self._work(run)
            except JobCrashed as error:
                _log.warning("%s: %s (%d of %d)", run.name, error, crash, MAX_CRASHES)
                if crash == MAX_CRASHES:
                    raise
            else:
                self._runs.end(run.name, RunState.SUCCEEDED, outcome=outcome)
                return
