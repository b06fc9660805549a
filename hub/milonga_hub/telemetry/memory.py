"""What a hub that starts again, or takes over, knows of devices: what was seen of each some minutes ago, and its windows since."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import col, delete

from milonga_hub.db import Database
from milonga_hub.telemetry.models import DriftWatch, TelemetryWindow, TelemetryWindowRow
from milonga_hub.telemetry.rows import all_columns, upsert, windows_of

# Of one device, for one judgement: at 30 seconds a window, two hours.
_NEWEST_WINDOWS = 240
# The first windows with a bundle, for the references that are made of them.
_FIRST_WINDOWS = 60
_TABLE: sa.Table = DriftWatch.metadata.tables["drift_watch"]
_KEY = ("project", "device")


class Remembered(NamedTuple):
    """What was seen of a device up to a window; see rules_remembered.py."""

    project: str
    device: str
    bundle: str
    #: What it was judged by, as JSON.
    policy: str
    window_id: int
    boot_id: str
    sequence: int
    #: When that window came.
    received_at: datetime
    state: bytes


_COLUMNS = tuple(_TABLE.c[name] for name in Remembered._fields)


class Memory:
    """Reads and writes the database; safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, project: str, device: str) -> Remembered | None:
        statement = sa.select(*_COLUMNS).where(_TABLE.c.project == project, _TABLE.c.device == device)
        with self._database.session() as session:
            row = session.connection().execute(statement).first()
        return None if row is None else Remembered(*row)

    def keep(self, devices: Sequence[Remembered]) -> None:
        """Have this of these devices in place of what was known of them."""
        rows = [one._asdict() for one in devices]
        values = [name for name in Remembered._fields if name not in _KEY]
        with self._database.session() as session:
            self._database.begin_writing(session)
            upsert(session, _TABLE, rows, _KEY, values)
            session.commit()

    def before(self, device: str, bundle: str, id_: int) -> list[TelemetryWindow]:
        """Return the first and the newest windows before this one, as they came."""
        place = col(TelemetryWindowRow.id)
        with self._database.session() as session:
            first = [*windows_of(session, _of(device, bundle).where(place < id_).order_by(place).limit(_FIRST_WINDOWS))]
        known = first[-1].id if first else 0
        return [*first, *self.between(device, bundle, known or 0, id_)]

    def between(self, device: str, bundle: str, after: int, before: int) -> list[TelemetryWindow]:
        """Return the windows that came after one and before another, by their ids and in this order; of very many the newest."""
        place = col(TelemetryWindowRow.id)
        its = _of(device, bundle).where(place > after, place < before)
        with self._database.session() as session:
            return [*windows_of(session, its.order_by(place.desc()).limit(_NEWEST_WINDOWS))][::-1]


def _of(device: str, bundle: str) -> sa.Select[tuple[object, ...]]:
    return all_columns().where(col(TelemetryWindowRow.device) == device, col(TelemetryWindowRow.bundle) == bundle)


def forget(database: Database, now: datetime, days: float) -> None:
    """Forget what was seen of devices that have not been heard of for so many days."""
    with database.session() as session:
        session.exec(delete(DriftWatch).where(col(DriftWatch.received_at) < now - timedelta(days=days)))
