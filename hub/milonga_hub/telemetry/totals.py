"""What a fleet did over time, added up as windows come in: charts of ten thousand devices read a few hundred rows."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, delete

from milonga_hub.db import Database, utc_now
from milonga_hub.errors import DatabaseUnreachable
from milonga_hub.events import EventBus
from milonga_hub.telemetry.added import added
from milonga_hub.telemetry.ahead import ROW_ID, Ahead
from milonga_hub.telemetry.models import TelemetryAdded, TelemetryTotal, TelemetryWindow, TelemetryWindowRow
from milonga_hub.telemetry.rows import all_columns, upsert, windows_of
from milonga_hub.telemetry.rules_series import Sum, Summed, floored, series, summed

_log = logging.getLogger(__name__)

# Seconds, the finest first: a chart reads the coarsest that is fine enough for it.
LEVELS = (60, 900, 3600)
COARSE = LEVELS[-1]
# Finer sums are for looking back some days; later the hours are enough.
_FINE_DAYS = 14.0
# Windows that wait to be added, and for how long where others follow. Who asks adds them first.
_MOST_WAITING, _WAITING_SECONDS = 2000, 2.0
# Four values each: SQLite takes some 32,000 in a statement.
_KEYS_ASKED = 1000
# Pages that look on are told no more often: a large fleet sends hundreds of windows a second.
_TELL_SECONDS = 5.0
_Key = tuple[str, str, int, datetime]
_KEY = ("project", "model_version", "step_seconds", "started_at")
_SUMMED = tuple(field.name for field in fields(Sum) if field.name != "started_at")
_TABLE: sa.Table = TelemetryTotal.metadata.tables["telemetry_total"]
_ADDED: sa.Table = TelemetryAdded.metadata.tables["telemetry_added"]
# Rows are a key and the rest of a Sum.
_ALL = sa.select(*(_TABLE.c[name] for name in (*_KEY, *_SUMMED)))


class Totals:
    """Sums by project and model version, for each minute, quarter of an hour and hour. Safe to use from several threads.

    Windows wait for each other, so that a row is written once for hundreds of them. None is counted twice and none is lost: a transaction
    that writes sums also writes up to which window they go, and those after it are read from the table when a hub starts.
    """

    def __init__(
        self, database: Database, events: EventBus, clock: Callable[[], datetime] = utc_now, ahead: Ahead | None = None
    ) -> None:
        self._database = database
        self._ahead = ahead or Ahead(database)
        self._events = events
        self._clock = clock
        self._told: dict[str, float] = {}
        self._lock = threading.RLock()
        self._waiting: list[TelemetryWindow] = []
        self._waiting_since = 0.0
        self._added: int | None = None

    def added(self, session: Session) -> int:
        """Return the id of the window up to which all are in the sums."""
        with self._lock:
            if self._added is None:
                self._waiting = []
                self._added = _begun(session)
                self._waiting = [*windows_of(session, all_columns().where(col(TelemetryWindowRow.id) > self._added))]
            return self._added

    def add(self, windows: Sequence[TelemetryWindow]) -> None:
        """Add windows that were stored just now; all that were stored before are added already."""
        with self._lock:
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting += windows
            due = len(self._waiting) >= _MOST_WAITING or time.monotonic() - self._waiting_since >= _WAITING_SECONDS
        if due:
            self._catch_up()

    def _catch_up(self) -> None:
        """Write what waits, where that is possible now: windows are kept, and charts are shown, on a full disk too."""
        try:
            self.write()
        except (OperationalError, DatabaseUnreachable) as error:
            why = error.orig if isinstance(error, OperationalError) else error
            _log.warning("could not add up telemetry (%s); trying again with what comes next", why)

    def write(self) -> None:
        """Write sums with all windows that were added."""
        with self._lock:
            # Others on the database store windows too.
            if self._added is not None and not self._waiting and not self._database.is_postgresql:
                return
        with self._database.session() as session:
            # Before the lock, as who stores windows has it.
            self._database.begin_writing(session)
            with self._lock:
                if self._database.is_postgresql:
                    # Another hub may have written sums, of windows that this one never saw or has waiting.
                    self._added = None
                self.added(session)
                if not self._waiting:
                    return
                newest = max(window.id or 0 for window in self._waiting)
                self._write(session, _by_level(self._waiting))
                _note(session, newest)
                session.commit()
                self._waiting, self._added = [], newest

    def _write(self, session: Session, new: Mapping[_Key, Sum]) -> None:
        before = self._so_far(session, sorted(new))
        values = []
        for key, sum_ in new.items():
            total = summed([before[key], sum_], key[3]) if key in before else sum_
            values.append(_values(key, total))
        upsert(session, _TABLE, values, _KEY, _SUMMED)

    def _so_far(self, session: Session, keys: Sequence[_Key]) -> dict[_Key, Sum]:
        """Return what these are so far; nobody else writes until the transaction ends."""
        connection = session.connection()
        found: dict[_Key, Sum] = {}
        for place in range(0, len(keys), _KEYS_ASKED):
            asked = sa.tuple_(*(_TABLE.c[name] for name in _KEY)).in_(keys[place : place + _KEYS_ASKED])
            rows = connection.execute(_ALL.where(asked))
            found |= {tuple(row[:4]): Sum(*row[3:]) for row in rows}
        return found

    def tell(self, projects: set[str]) -> None:
        """Tell those who look on that there is more, at most every few seconds."""
        now = time.monotonic()
        with self._lock:
            due = [project for project in projects if now - self._told.get(project, -_TELL_SECONDS) >= _TELL_SECONDS]
            self._told.update(dict.fromkeys(due, now))
        for project in due:
            self._events.publish(f"telemetry_totals/{project}", None)

    def series(
        self, project: str, since: datetime, until: datetime, step_seconds: int
    ) -> dict[tuple[str, str], list[Sum]]:
        """Return sums over time by project and model version; of all projects where none is named."""
        self._catch_up()
        level = COARSE
        if since >= self._clock() - timedelta(days=_FINE_DAYS):
            level = max((each for each in LEVELS if each <= step_seconds), default=LEVELS[0])
        its = [
            _TABLE.c.step_seconds == level,
            _TABLE.c.started_at >= floored(since, level),
            _TABLE.c.started_at < until,
            *([_TABLE.c.project == project] if project else []),
        ]
        found: defaultdict[tuple[str, str], list[Summed]] = defaultdict(list)
        with self._database.session() as session:
            self._ahead.fetch(session, _TABLE.name, sa.select(ROW_ID).select_from(_TABLE).where(*its))
            for row in session.connection().execute(_ALL.where(*its)):
                found[row.project, row.model_version].append(Sum(*row[3:]))
        return {key: series(rows, max(step_seconds, level)) for key, rows in sorted(found.items())}


def _begun(session: Session) -> int:
    """Return the id up to which windows are in the sums. Earlier versions added each in the transaction that kept it."""
    found = session.connection().execute(sa.select(_ADDED.c.window_id)).scalar()
    if found is None:
        found = session.connection().execute(sa.select(sa.func.max(col(TelemetryWindowRow.id)))).scalar() or 0
        _note(session, found)
    return int(found)


def _note(session: Session, window_id: int) -> None:
    upsert(session, _ADDED, [{"id": 1, "window_id": window_id}], ("id",), ("window_id",))


def _values(key: _Key, total: Sum) -> dict[str, Any]:
    return {**dict(zip(_KEY, key, strict=True)), **{name: getattr(total, name) for name in _SUMMED}}


def _by_level(windows: Sequence[TelemetryWindow]) -> dict[_Key, Sum]:
    """Add up windows for each level, the coarser of what the finer one added up."""
    finest: defaultdict[_Key, list[TelemetryWindow]] = defaultdict(list)
    for window in windows:
        start = floored(window.started_at, LEVELS[0])
        finest[window.project, window.model_version, LEVELS[0], start].append(window)
    level = {key: added(each, key[3]) for key, each in finest.items()}
    found = level
    for step in LEVELS[1:]:
        groups: defaultdict[_Key, list[Summed]] = defaultdict(list)
        for (project, version, _, start), one in level.items():
            groups[project, version, step, floored(start, step)].append(one)
        level = {key: summed(each, key[3]) for key, each in groups.items()}
        found = found | level
    return found


def forget(database: Database, now: datetime, days: float) -> None:
    """Forget sums after so many days, and all but those of hours after two weeks."""
    for step in LEVELS:
        kept_days = days if step == COARSE else min(days, _FINE_DAYS)
        old = delete(TelemetryTotal).where(
            col(TelemetryTotal.step_seconds) == step,
            col(TelemetryTotal.started_at) < now - timedelta(days=kept_days),
        )
        with database.session() as session:
            session.exec(old)


def added_up_to() -> sa.ScalarSelect[int]:
    """Return the id of the window up to which all are in the sums, as part of a statement."""
    return sa.select(_ADDED.c.window_id).scalar_subquery()
