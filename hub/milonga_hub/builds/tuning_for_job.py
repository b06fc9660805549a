"""How a build job tunes: where, for how long still, and what it came to in all, also where the job was begun again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from milonga_compiler.engines import ENGINES
from milonga_compiler.errors import TuningRefused
from milonga_compiler.files import write_atomically
from milonga_compiler.target import Target
from milonga_compiler.timing import Timer, Times
from milonga_compiler.tuning import Budget, Step, Tuning, network_ms

from milonga_hub.jobs import JobContext, JobError

# Figures of one tuning that add up over those of a job that was begun again.
_SUMS = ("seconds", "trials", "failed")


class JobTuning:
    """The tuning of one target, with a record beside the job's other files; `tuning` is None where the build takes no database."""

    def __init__(
        self, target: Target, spec: dict[str, Any], record: Path, order: str, timer: Timer | None = None
    ) -> None:
        self._spec, self._record, self._order = spec, record, order
        self.seconds = 60.0 * spec.get("tuning_minutes", 0.0) if ENGINES[target.engine].tuned else 0.0
        kept = json.loads(record.read_text(encoding="utf-8")) if record.exists() and self.seconds else {}
        self._before: dict[str, Any] = kept["told"] if kept.get("order") == order else {}
        self._told = dict(self._before)
        self.tuning = self._tuning(target, timer)

    def _tuning(self, target: Target, timer: Timer | None) -> Tuning | None:
        if not ENGINES[target.engine].tuned or not self._spec.get("tuning_database"):
            return None
        database = Path(self._spec["tuning_database"])
        if not self.seconds:
            # Nothing more is tuned, and what was is taken.
            return Tuning(database) if database.exists() else None
        left = Budget(seconds=max(0.0, self.seconds - self._before.get("seconds", 0.0)))
        on = self._spec.get("tuning_on")
        return Tuning(database, left, on["threads"] if on else self._spec["threads"], timer if on else None)

    @property
    def spent_share(self) -> float:
        """Return how much of the budget is spent, of 1."""
        return min(1.0, self._told.get("seconds", 0.0) / self.seconds) if self.seconds else 1.0

    def keep(self, step: Step) -> None:
        """Keep how far it is; also why it did not begin, where the step has no kernels."""
        now = {name: self._before.get(name, 0) + getattr(step, name) for name in _SUMS}
        self._told = {**self._told, **now, "ended": step.ended}
        if step.device:
            self._told["device"] = step.device
        if step.kernels:
            self._told.setdefault("found", step.found)
            self._told.setdefault("begun_ms", network_ms(step.kernels))
            self._told.update(
                kernels=len(step.kernels),
                tuned=sum(one.tuned for one in step.kernels),
                untuned_ms=sum(one.count * one.untuned_ms for one in step.kernels),
                ms=network_ms(step.kernels),
            )
        write_atomically(self._record, json.dumps({"order": self._order, "told": self._told}))

    @property
    def told(self) -> dict[str, Any] | None:
        """Return what it came to, as a build's `tuning`; None where nothing was to be tuned."""
        if not self.seconds:
            return None
        on = self._spec.get("tuning_on")
        asked = {"site": "DEVICE" if on else "HUB", "minutes": self.seconds / 60}
        return {**asked, "wanted_device": on["device"] if on else "", **self._told}


def asking(context: JobContext) -> Callable[[Path], Times]:
    """Return what has a device time kernels, through the hub."""

    def time(kernels: Path) -> Times:
        try:
            return Times.from_json(context.ask({"kernels": str(kernels)}))
        except JobError as error:
            raise TuningRefused(str(error)) from error

    return time
