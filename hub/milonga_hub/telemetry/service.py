"""Telemetry as it comes in, and what it says of the models in the field."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel import update as update_rows

from milonga_hub import tracing
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.events import Event, EventBus
from milonga_hub.paging import of_projects, page
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.ahead import ROW_ID, Ahead
from milonga_hub.telemetry.confidences import Confidences
from milonga_hub.telemetry.judging import Judge
from milonga_hub.telemetry.models import DriftEvent, Estimate, TelemetryWindow, TelemetryWindowRow
from milonga_hub.telemetry.quarters import Quarters
from milonga_hub.telemetry.refusals import Refusals
from milonga_hub.telemetry.rows import active_since, all_columns, insert, summed_columns, sums_of, windows_of
from milonga_hub.telemetry.rules_accuracy import estimated, together
from milonga_hub.telemetry.rules_activity import Activity, activity
from milonga_hub.telemetry.rules_intake import flaw, righted
from milonga_hub.telemetry.rules_quarters import QUARTER
from milonga_hub.telemetry.rules_retention import HOUR, MINUTE
from milonga_hub.telemetry.rules_series import Sum, Summed, floored, series
from milonga_hub.telemetry.stored import SummedWindow
from milonga_hub.telemetry.tally import Tally
from milonga_hub.telemetry.totals import LEVELS, Totals

# A window that came, or that others were merged into.
_LONGEST = timedelta(seconds=HOUR)


class TelemetryService:
    """Keeps windows, answers questions about them and raises drift events."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        reference_of: Callable[[str], Mapping[str, Any] | None],
        policy_of: Callable[[str], DriftPolicy],
        clock: Callable[[], datetime] = utc_now,
        served_as: Callable[[str], tuple[str, str] | None] | None = None,
    ) -> None:
        """`reference_of(bundle)` returns the manifest's reference; `policy_of(project)` what its user wants.

        `served_as(bundle)` returns project and model version of what was ever assigned; without it, devices are believed.
        """
        self.refusals = Refusals(clock)
        self._served_as = served_as
        self._ahead = Ahead(database)
        self.totals = Totals(database, events, clock, self._ahead)
        self.quarters = Quarters(database, self._ahead, clock)
        self._database = database
        self._storing = threading.Lock()
        self._events = events
        self._clock = clock
        self.tally = Tally()
        self._confidences = Confidences()
        self._policy_of = policy_of
        self._judge = Judge(database, events, reference_of, policy_of, clock)

    def begin(self) -> None:
        """Be the one who stores and judges telemetry from now on: another hub may have done it until now."""
        self._judge.begin()

    def examine(self, window: TelemetryWindow) -> TelemetryWindow:
        """Return the window as it may be stored. Raises InvalidInput for one that no honest device sends."""
        problem = flaw(window) or self._foreign(window)
        if problem:
            raise InvalidInput(problem)
        return righted(window, self._clock())

    def _foreign(self, window: TelemetryWindow) -> str:
        """Return how the window speaks of what its device was never given, "" where it does not."""
        if self._served_as is None:
            return ""
        told = (window.project, window.model_version)
        known = self._served_as(window.bundle) if window.bundle else ("", "")
        if known is None:
            return f"no device was ever assigned the bundle {window.bundle[:19]!r}"
        return "" if told == known else f"the bundle {window.bundle[:19]!r} is not {told[1]!r} of {told[0]!r}"

    def store(self, windows: Sequence[TelemetryWindow]) -> list[TelemetryWindow]:
        """Keep the windows in one commit and return those that were new; a repeat changes nothing.

        When this returns, all of them are on disk. Those that were new have their id and time of receipt. Safe to call from any thread.
        """
        with tracing.span("store telemetry", windows=len(windows)):
            rows = self._insert(windows)
        self.tally.add(rows)
        self._confidences.add(rows)
        self._events.publish_all([Event(f"telemetry/{row.device}", row) for row in rows])
        self._judge.judge(rows)
        return rows

    def _insert(self, windows: Sequence[TelemetryWindow]) -> list[TelemetryWindow]:
        if not windows:
            return []
        # One after the other, so that the totals hear of windows in the order of their ids.
        with self._storing:
            with self._database.session() as session:
                self._database.begin_writing(session)
                new = insert(session, windows, self._clock(), after=self.totals.added(session))
            self.totals.add(new)
        self.totals.tell({window.project for window in new})
        return new

    def series(self, device: str, since: datetime, until: datetime, step_seconds: int) -> list[Sum]:
        """Return what one device did over time, in even steps."""
        with self._database.session() as session:
            found: list[Summed] = []
            if step_seconds % QUARTER == 0:
                found, until = self.quarters.of(session, device, floored(since, QUARTER), until)
            if since < until:
                found += self._windows(session, device, since, until)
            return series(found, step_seconds)

    def _windows(self, session: Session, device: str, since: datetime, until: datetime) -> Iterator[SummedWindow]:
        its = (
            col(TelemetryWindowRow.device) == device,
            # All there are; named, so that the index finds windows by their age.
            col(TelemetryWindowRow.resolution_seconds).in_((0, MINUTE, HOUR)),
            col(TelemetryWindowRow.ended_at) >= since,
        )
        # When a window ended is in the index; when it began is not, and it is not longer than an hour.
        rows = (
            sa.select(ROW_ID)
            .select_from(TelemetryWindowRow)
            .where(*its, col(TelemetryWindowRow.ended_at) < until + _LONGEST)
        )
        self._ahead.fetch(session, "telemetry_window", rows)
        return sums_of(session, summed_columns().where(*its, col(TelemetryWindowRow.started_at) < until))

    def requests_by_version(self, project: str, since: datetime, until: datetime) -> dict[str, list[tuple[int, int]]]:
        """Return by model version how many requests the devices of a project had in each minute from that of `since` on, and how many failed."""
        found = self.totals.series(project, since, until, LEVELS[0])
        return {
            version: [(one.request_count, one.error_count) for one in sums]
            for (_, version), sums in found.items()
            if version
        }

    def query(
        self,
        device: str = "",
        project: str = "",
        since: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        projects: Collection[str] | None = None,
    ) -> tuple[list[TelemetryWindow], str]:
        """Return windows, the last received first."""
        # An index has the ids alone; what lies at them is read ahead.
        place = col(TelemetryWindowRow.id)
        statement: Any = of_projects(sa.select(place), col(TelemetryWindowRow.project), projects)
        if device:
            statement = statement.where(col(TelemetryWindowRow.device) == device)
        if project:
            statement = statement.where(col(TelemetryWindowRow.project) == project)
        if since is not None:
            statement = statement.where(col(TelemetryWindowRow.started_at) >= since)
        with self._database.session() as session:
            found: list[Any]
            found, token = page(session, statement, place, page_size, page_token, newest_first=True)
            ids = [row.id for row in found]
            self._ahead.fetch_ids("telemetry_window", ids)
            return [*windows_of(session, all_columns().where(place.in_(ids)).order_by(place.desc()))], token

    def activity(self, since: datetime) -> dict[str, Activity]:
        """Return what each device did in the windows that ended since, of the project that it served last."""
        with self._database.session() as session:
            return activity(active_since(session, since))

    def drift_events(
        self, project: str = "", page_size: int = 0, page_token: str = "", projects: Collection[str] | None = None
    ) -> tuple[list[DriftEvent], str]:
        """Return drift events, the newest first."""
        statement = of_projects(select(DriftEvent), col(DriftEvent.project), projects)
        if project:
            statement = statement.where(DriftEvent.project == project)
        with self._database.session() as session:
            return page(session, statement, col(DriftEvent.id), page_size, page_token, newest_first=True)

    def unanswered(self, project: str) -> list[DriftEvent]:
        """Return open events of models that their devices still serve, oldest first.

        An event of a model that has been replaced since needs no answer any more, nor does one that is over.
        """
        statement = select(DriftEvent).where(
            DriftEvent.project == project, DriftEvent.triggered_run == "", col(DriftEvent.ended_at).is_(None)
        )
        with self._database.session() as session:
            found = session.exec(statement.order_by(col(DriftEvent.id))).all()
        return [event for event in found if self._serves(event.device, project) == event.model_version]

    def _serves(self, device: str, project: str) -> str:
        newest = (
            select(TelemetryWindowRow.model_version)
            .where(TelemetryWindowRow.device == device, TelemetryWindowRow.project == project)
            .order_by(col(TelemetryWindowRow.id).desc())
        )
        with self._database.session() as session:
            return session.exec(newest.limit(1)).first() or ""

    def newest_version(self, project: str) -> str:
        """Return the newest model version that answered within a day; "" for none."""
        return max((version for version, _ in self._confidences.of(project, self._clock())), key=_number, default="")

    def estimated_accuracy(self, project: str) -> tuple[str, Estimate] | None:
        """Return the newest model version that answered within a day, and how many of its answers are right by its confidence.

        None where nothing answered, or no bundle says how far its confidence can be believed (detectors, older bundles).
        """
        answered = self._confidences.of(project, self._clock())
        if not answered:
            return None
        newest = max((version for version, _ in answered), key=_number)
        found = [
            estimate
            for (version, bundle), counts in answered.items()
            if version == newest and (estimate := estimated(self._judge.reference(bundle) or {}, counts)) is not None
        ]
        whole = together(found)
        return None if whole is None else (newest, whole)

    def demand_estimated_accuracy(self, project: str) -> tuple[str, Estimate]:
        """Return estimated_accuracy(), or raise FailedPrecondition with what is missing, NotFound for no project."""
        found = self.estimated_accuracy(project)
        if found is None:
            self._policy_of(project)
            raise FailedPrecondition(
                f"nothing tells how accurate {project} is in the field: no classifier of it answered within 24 hours (or since the hub"
                " started), or what answers was built without validation pictures, or before this estimate came; with a data set"
                f" (spec.dataset), build it again: milonga runs start {project}, or milonga models import {project} FILE"
            )
        return found

    def answer(self, ids: Iterable[str], run_name: str) -> None:
        """Note which run came of these events; they are closed with that."""
        statement = update_rows(DriftEvent).where(col(DriftEvent.id).in_(list(ids))).values(triggered_run=run_name)
        with self._database.session() as session:
            session.exec(statement)


def _number(model_version: str) -> int:
    """Return 3 for models/digits/versions/3."""
    last = model_version.rpartition("/")[2]
    return int(last) if last.isdecimal() else 0
