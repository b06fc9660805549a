"""Tell how far a stage is: once begun it is shown running, once ended it stays ended, however often it is repeated."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from milonga_hub.db import utc_now
from milonga_hub.jobs import Progress
from milonga_hub.runs.models import StageState
from milonga_hub.runs.service import RunService

T = TypeVar("T")

# Four updates a second look live; more only wear the disk.
_SECONDS_BETWEEN_UPDATES = 0.25


class Report:
    """Where a stage says how far it is. A stage that is repeated after a restart, done already, is silent."""

    def __init__(self, runs: RunService, run: str, stage: str, *, silent: bool) -> None:
        self._runs = runs
        self._run = run
        self._stage = stage
        self._silent = silent
        self._told_at = 0.0
        self.skipped = False

    def __call__(self, fraction: float, message: str, where: str = "", /, **metrics: float) -> None:
        """Show the fraction (0 to 1) that is done, the machine that does it, and figures by name."""
        if self._silent or (time.monotonic() - self._told_at < _SECONDS_BETWEEN_UPDATES and not metrics):
            return
        self._told_at = time.monotonic()
        stage = next(stage for stage in self._runs.get(self._run).stages if stage.name == self._stage)
        self._runs.change_stage(
            self._run,
            self._stage,
            progress=min(1.0, max(0.0, fraction)),
            message=message,
            metrics={**stage.metrics, **metrics},
            where=where or stage.where,
        )

    def of_job(self, start: float = 0.0, end: float = 1.0) -> Callable[[Progress], None]:
        """Return a listener that shows a job's progress as this share of the stage."""

        def tell(progress: Progress) -> None:
            self(start + (end - start) * progress.fraction, progress.message, progress.where, **progress.metrics)

        return tell

    def skip(self, message: str) -> None:
        """Mark the stage as not needed, and say why."""
        self(1.0, message)
        self.skipped = True


async def stage(runs: RunService, run: str, name: str, work: Callable[[Report], Awaitable[T]]) -> T:
    """Do one stage. One that has succeeded before is repeated silently from what it left on disk."""
    known = next(stage for stage in runs.get(run).stages if stage.name == name)
    if known.state in (StageState.SUCCEEDED, StageState.SKIPPED):
        return await work(Report(runs, run, name, silent=True))
    runs.change_stage(
        run,
        name,
        state=StageState.RUNNING,
        started_at=known.started_at or utc_now(),
        attempts=known.attempts + 1,
        where="",
    )
    report = Report(runs, run, name, silent=False)
    result = await work(report)
    state = StageState.SKIPPED if report.skipped else StageState.SUCCEEDED
    runs.change_stage(run, name, state=state, ended_at=utc_now(), progress=1.0)
    return result
