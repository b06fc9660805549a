"""What a fleet did over time, added up as windows come in: charts of ten thousand devices read a few hundred rows."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete

from milonga_hub.db import Database, utc_now
from milonga_hub.events import EventBus
from milonga_hub.telemetry.models import TelemetryTotal, TelemetryWindow
from milonga_hub.telemetry.rules_series import Sum, Summed, floored, series, summed

# Seconds, the finest first: a chart reads the coarsest that is fine enough for it.
LEVELS = (60, 900, 3600)
COARSE = LEVELS[-1]
# Finer sums are for looking back some days; later the hours are enough.
_FINE_DAYS = 14.0
# Pages that look on are told no more often: a large fleet sends hundreds of windows a second.
_TELL_SECONDS = 5.0
_Key = tuple[str, str, int, datetime]
_KEY = ("project", "model_version", "step_seconds", "started_at")
_SUMMED = tuple(field.name for field in fields(Sum) if field.name != "started_at")
_TABLE: sa.Table = TelemetryTotal.metadata.tables["telemetry_total"]
# Rows are a key and the rest of a Sum.
_ALL = sa.select(*(_TABLE.c[name] for name in (*_KEY, *_SUMMED)))


class Totals:
    """Sums by project and model version, for each minute, quarter of an hour and hour."""

    def __init__(self, database: Database, events: EventBus, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._events = events
        self._clock = clock
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, session: Session, windows: Sequence[TelemetryWindow]) -> None:
        """Add windows that are new, in the transaction that keeps them: none is counted twice, and none is lost."""
        new = _by_level(windows)
        if not new:
            return
        before = self._locked(session, sorted(new))
        values = []
        for key, sum_ in new.items():
            total = summed([before[key], sum_], key[3]) if key in before else sum_
            values.append(_values(key, total))
        insert = (postgresql if _is_postgresql(session) else sqlite).insert(_TABLE)
        written = insert.on_conflict_do_update(_KEY, set_={name: insert.excluded[name] for name in _SUMMED})
        session.connection().execute(written, values)

    def _locked(self, session: Session, keys: Sequence[_Key]) -> dict[_Key, Sum]:
        """Return what these are so far; nobody else changes them until the transaction ends."""
        connection = session.connection()
        if _is_postgresql(session):
            # SQLite has one writer at a time. In one order, so that two transactions never wait for each other.
            empty = [_values(key, Sum(key[3])) for key in keys]
            connection.execute(postgresql.insert(_TABLE).on_conflict_do_nothing(), empty)
        asked = sa.tuple_(*(_TABLE.c[name] for name in _KEY)).in_(keys)
        found = connection.execute(_ALL.where(asked).order_by(*(_TABLE.c[name] for name in _KEY)).with_for_update())
        return {tuple(row[:4]): Sum(*row[3:]) for row in found}

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
        level = COARSE
        if since >= self._clock() - timedelta(days=_FINE_DAYS):
            level = max((each for each in LEVELS if each <= step_seconds), default=LEVELS[0])
        statement = _ALL.where(
            _TABLE.c.step_seconds == level,
            _TABLE.c.started_at >= floored(since, level),
            _TABLE.c.started_at < until,
        )
        if project:
            statement = statement.where(_TABLE.c.project == project)
        found: defaultdict[tuple[str, str], list[Summed]] = defaultdict(list)
        with self._database.session() as session:
            for row in session.connection().execute(statement):
                found[row.project, row.model_version].append(Sum(*row[3:]))
        return {key: series(rows, max(step_seconds, level)) for key, rows in sorted(found.items())}


def _values(key: _Key, total: Sum) -> dict[str, Any]:
    return {**dict(zip(_KEY, key, strict=True)), **{name: getattr(total, name) for name in _SUMMED}}


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _by_level(windows: Sequence[TelemetryWindow]) -> dict[_Key, Sum]:
    """Add up windows for each level, the coarser of what the finer one added up."""
    finer: list[tuple[str, str, Summed]] = [(each.project, each.model_version, each) for each in windows]
    found: dict[_Key, Sum] = {}
    for step in LEVELS:
        groups: defaultdict[_Key, list[Summed]] = defaultdict(list)
        for project, version, one in finer:
            groups[project, version, step, floored(one.started_at, step)].append(one)
        level = {key: summed(each, key[3]) for key, each in groups.items()}
        finer = [(project, version, one) for (project, version, _, _), one in level.items()]
        found |= level
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
