"""Windows into the table and out of it, past the ORM: thousands of them a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from milonga_hub.telemetry.figures import (
    Packed,
    packed_counts,
    packed_histogram,
    packed_histograms,
    packed_percentiles,
)
from milonga_hub.telemetry.models import TelemetryWindow, TelemetryWindowRow
from milonga_hub.telemetry.stored import ActiveWindow, SummedWindow

_NAMES = tuple(field.name for field in fields(TelemetryWindow) if field.compare)
# In the order of SummedWindow and ActiveWindow.
_SUMMED = (
    "started_at", "request_count", "error_count", "log10_latency_ms", "confidence", "class_counts", "inputs", "cpu_percent",
    "memory_bytes", "temperature_celsius",
)  # fmt: skip
_ACTIVE = (
    "device", "boot_id", "project", "model_version", "bundle", "request_count", "error_count", "log10_latency_ms",
    "temperature_celsius", "dropped_count", "inputs",
)  # fmt: skip
_AS_IT_IS = sa.types.NullType()
# What makes a repeat harmless.
_KEY = ("device", "boot_id", "sequence")
_GIVEN = tuple(name for name in _NAMES if name != "id")
_TABLE: sa.Table = TelemetryWindowRow.metadata.tables["telemetry_window"]
_PLACES = ", ".join("?" * (1 + len(_GIVEN)))
_INSERT = f"INSERT INTO telemetry_window (id, {', '.join(_GIVEN)}) VALUES ({_PLACES}) ON CONFLICT DO NOTHING"  # noqa: S608
# For PostgreSQL, one list a column: its driver would take longer over a row of its own for each window.
_TYPES = {
    **dict.fromkeys(("device", "boot_id", "bundle", "model_version", "project"), "text"),
    **dict.fromkeys(("started_at", "ended_at", "received_at"), "timestamp"),
    **dict.fromkeys(("log10_latency_ms", "latency_ms", "confidence", "class_counts", "inputs"), "bytea"),
    **dict.fromkeys(("cpu_percent", "temperature_celsius"), "float8"),
}
_LISTS = ", ".join(f"%({name})s::{_TYPES.get(name, 'bigint')}[]" for name in _GIVEN)
_INSERT_LISTS = f"""
    INSERT INTO telemetry_window ({", ".join(_GIVEN)}) SELECT * FROM unnest({_LISTS})
    ON CONFLICT DO NOTHING RETURNING id, {", ".join(_KEY)}"""  # noqa: S608
_NEWER = f"SELECT id, {', '.join(_KEY)} FROM telemetry_window WHERE id > ?"  # noqa: S608


def all_columns() -> sa.Select[Any]:
    """Return the statement of which each row is a window's, for `windows_of`."""
    return sa.select(*(_TABLE.c[name] for name in _NAMES))


def summed_columns(*before: Any) -> sa.Select[Any]:
    """Return the statement of which each row is what `sums_of` needs of a window, half of its columns, after those that are named."""
    return sa.select(*before, *_raw(_SUMMED))


def sums_of(session: Session, statement: sa.Select[Any]) -> Iterator[SummedWindow]:
    """Yield the windows of a `summed_columns()` statement."""
    for row in session.connection().execute(statement.execution_options(yield_per=500)):
        yield SummedWindow(*row)


def numbered_sums_of(session: Session, statement: sa.Select[Any]) -> Iterator[tuple[int, SummedWindow]]:
    """Yield the windows of a `summed_columns(id)` statement with their ids."""
    for id_, *row in session.connection().execute(statement.execution_options(yield_per=500)):
        yield id_, SummedWindow(*row)


def active_since(session: Session, since: datetime) -> list[ActiveWindow]:
    """Return the windows that ended since, in the order in which they came."""
    statement = sa.select(_TABLE.c.id, *_raw(_ACTIVE)).where(_TABLE.c.ended_at >= since)
    found = session.connection().execute(statement)
    # The driver's own rows: nothing in them is read otherwise, and there may be a hundred thousand.
    rows: Sequence[Any] = found.cursor.fetchall() if found.cursor is not None else []
    # Put in order here: asked for it, SQLite reads all windows there are in place of the newest by their index.
    return [ActiveWindow(*row[1:]) for row in sorted(rows, key=itemgetter(0))]


def _raw(names: Sequence[str]) -> Iterator[sa.ColumnElement[Any]]:
    """Yield columns, those with histograms and the like as they are stored."""
    for name in names:
        column = _TABLE.c[name]
        yield sa.type_coerce(column, _AS_IT_IS) if name in Packed._fields else column


def windows_of(session: Session, statement: sa.Select[Any]) -> Iterator[TelemetryWindow]:
    """Yield the windows of an `all_columns()` statement."""
    for row in session.connection().execute(statement.execution_options(yield_per=500)):
        yield TelemetryWindow(*row)


def insert(
    session: Session, windows: Sequence[TelemetryWindow], received_at: datetime, after: int = 0
) -> list[TelemetryWindow]:
    """Keep the windows, in a transaction in which nobody else writes; return those that were new, with their ids, all above `after`."""
    if not windows:
        return []
    for window in windows:
        window.received_at = received_at
    sqlite = session.get_bind().dialect.name == "sqlite"
    new = _insert_packed(session, windows, after) if sqlite else _insert_lists(session, windows)
    found = []
    for window in windows:
        id_ = new.pop((window.device, window.boot_id, window.sequence), None)
        if id_ is not None:
            window.id = id_
            found.append(window)
    return found


def _insert_packed(session: Session, windows: Sequence[TelemetryWindow], after: int) -> dict[tuple[Any, ...], int]:
    """As SQLAlchemy would store them, without its look at each value: that took most of the time."""
    connection = session.connection()
    newest = max(after, connection.exec_driver_sql("SELECT max(id) FROM telemetry_window").scalar() or 0)
    # Named here: SQLite would give the id of the newest window again once that one is merged with others.
    received_at = _text(windows[0].received_at)
    rows = [(id_, *_packed(window, received_at)) for id_, window in enumerate(windows, newest + 1)]
    if connection.exec_driver_sql(_INSERT, rows).rowcount == len(rows):
        # None was a repeat: nothing has to be read again.
        return {(device, boot_id, sequence): id_ for id_, device, boot_id, sequence, *_ in rows}
    return {tuple(key): id_ for id_, *key in connection.exec_driver_sql(_NEWER, (newest,))}


def _insert_lists(session: Session, windows: Sequence[TelemetryWindow]) -> dict[tuple[Any, ...], int]:
    """As `_insert_packed`, for PostgreSQL, which never gives an id again."""
    received_at = _text(windows[0].received_at)
    columns = map(list, zip(*(_packed(window, received_at) for window in windows), strict=True))
    lists = dict(zip(_GIVEN, columns, strict=True))
    return {tuple(key): id_ for id_, *key in session.connection().exec_driver_sql(_INSERT_LISTS, lists)}


def _packed(window: TelemetryWindow, received_at: str) -> tuple[Any, ...]:
    """Return the values of a row, in the order of _GIVEN."""
    return (
        window.device,
        window.boot_id,
        window.sequence,
        _text(window.started_at),
        _text(window.ended_at),
        window.bundle,
        window.model_version,
        window.project,
        window.request_count,
        window.error_count,
        *(window.packed or _figures(window)),
        window.cpu_percent,
        window.memory_bytes,
        window.temperature_celsius,
        window.dropped_count,
        received_at,
        window.resolution_seconds,
    )


def _figures(window: TelemetryWindow) -> Packed:
    latency, percentiles, confidence = window.log10_latency_ms, window.latency_ms, window.confidence
    return Packed(
        None if latency is None else packed_histogram(latency),
        None if percentiles is None else packed_percentiles(percentiles),
        None if confidence is None else packed_histogram(confidence),
        packed_counts(window.class_counts),
        packed_histograms(window.inputs),
    )


def _text(moment: datetime) -> str:
    """Return what UTC_TIME stores in SQLite."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(" ", "microseconds")[:26]


def upsert(
    session: Session, table: sa.Table, rows: Sequence[Mapping[str, Any]], key: Sequence[str], values: Sequence[str]
) -> None:
    """Write rows; where there is one of the same key, its values take these."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    written: Any = insert(table)
    changed = {name: written.excluded[name] for name in values}
    session.connection().execute(written.on_conflict_do_update(index_elements=key, set_=changed), [*rows])
