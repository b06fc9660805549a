"""Runs and model versions of the hub, told to MLflow as they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from milonga_hub.builds.models import Build
from milonga_hub.builds.service import BuildService
from milonga_hub.db import utc_now
from milonga_hub.errors import NotFound
from milonga_hub.events import EventBus
from milonga_hub.models.service import ModelService
from milonga_hub.paging import MAX_PAGE_SIZE, all_rows
from milonga_hub.runs.models import PLAN, Candidate, Run
from milonga_hub.runs.service import RunService
from milonga_hub.tracking.mirror import MOST_WAITING, SECONDS_BETWEEN, Mirror
from milonga_hub.tracking.rules import Record, candidates_csv, has_searched, record

# Half of what may wait, so that news has room.
_AT_START = MOST_WAITING // 2


class Store(Protocol):
    """Where records go. Raises Away and Refused."""

    def write(self, record: Record) -> None:
        """Make it so that the store says what the record does; safe to repeat."""
        ...


class Tracking:
    """Looks up what runs are now, whenever they change, and at the hub's start for what happened before."""

    def __init__(
        self,
        events: EventBus,
        runs: RunService,
        models: ModelService,
        builds: BuildService,
        folder: Path,
        hub: str,
        address: Callable[[], str],
        store: Store,
        seconds_between: float = SECONDS_BETWEEN,
    ) -> None:
        self._events = events
        self._runs = runs
        self._models = models
        self._builds = builds
        self._folder = folder
        self._hub = hub
        self._address = address
        self._store = store
        self._mirror = Mirror(self.tell, seconds_between=seconds_between)

    async def run(self) -> None:
        """Pass on changes until cancelled."""
        with self._events.listen("projects/", "builds/") as news:
            self._mirror.start()
            try:
                self._begin()
                async for event in news:
                    if isinstance(event.payload, Run):
                        self._mirror.add(event.payload.name)
                    elif isinstance(event.payload, Build):
                        self._mirror.add(event.payload.model_version)
            finally:
                self._mirror.end()

    def _begin(self) -> None:
        """What was told before costs a question each. Oldest first: versions are registered in their order."""
        known, _ = self._runs.list(page_size=_AT_START)
        for run in reversed(known):
            self._mirror.add(run.name)

    def tell(self, name: str) -> None:
        """Write the run of this name, or the run that made the model version of this name."""
        try:
            found = self.record(self._models.get_version(name).run if name.startswith("models/") else name)
        except NotFound:
            return
        self._store.write(found)

    def record(self, name: str) -> Record:
        """Return what there is to tell of a run. Raises NotFound."""
        run = self._runs.get(name)
        version = self._models.of_run(run.project, name)
        chosen = self._builds.chosen(version.name) if version else {}
        url = f"{self._address()}/runs/{quote(run.project, safe='')}/{run.number}"
        return record(run, version, chosen, self._artifacts(run), self._hub, url, utc_now())

    def _artifacts(self, run: Run) -> Mapping[str, str]:
        plan = self._folder / run.project / str(run.number) / PLAN
        found = {PLAN: plan.read_text(encoding="utf-8")} if plan.exists() else {}
        candidates = self._candidates(run.name) if has_searched(run) else []
        return found | ({"candidates.csv": candidates_csv(candidates)} if candidates else {})

    def _candidates(self, run: str) -> list[Candidate]:
        return [*all_rows(lambda token: self._runs.candidates(run, page_size=MAX_PAGE_SIZE, page_token=token))]
