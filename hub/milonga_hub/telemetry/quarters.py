"""What each device did in each quarter of an hour, one device's together: a question about its day reads a few pages of the disk.

Windows lie in their table as they came, those of one device far apart. Every quarter of an hour those that came since are added up here,
away from the path on which they come; until then they are read as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, delete, select

from milonga_hub.db import Database, utc_now
from milonga_hub.telemetry.ahead import Ahead
from milonga_hub.telemetry.models import TelemetryQuarter, TelemetryQuartersAdded, TelemetryWindowRow
from milonga_hub.telemetry.rows import numbered_sums_of, summed_columns, upsert
from milonga_hub.telemetry.rules_quarters import QUARTER, Kept, packed_sum, unpacked_sum
from milonga_hub.telemetry.rules_retention import HOUR
from milonga_hub.telemetry.rules_series import Sum, Summed, floored, summed
from milonga_hub.telemetry.totals import added_up_to

# Devices whose quarters are written in one transaction: it takes milliseconds, and the intake waits for no longer.
_DEVICES_AT_ONCE = 50
# What is there when a hub first adds up quarters is not gone through. Clocks that run ahead are set right by less (rules_intake.righted).
_BEGINS_AFTER = timedelta(hours=2)
_EPOCH = datetime.fromtimestamp(0, UTC)
_TABLE: sa.Table = TelemetryQuarter.metadata.tables["telemetry_quarter"]
_ADDED: sa.Table = TelemetryQuartersAdded.metadata.tables["telemetry_quarters_added"]
_VALUES = ("window_id", "window_count", "figures")


class Quarters:
    """Each quarter says up to which window it goes, so that none is counted twice where a hub ends in the middle.

    One at a time adds and forgets; anybody may ask meanwhile.
    """

    def __init__(self, database: Database, ahead: Ahead, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._ahead = ahead
        self._clock = clock

    def add(self) -> None:
        """Add all windows to the quarters that are in the totals."""
        with self._database.session() as session:
            until = session.connection().execute(sa.select(added_up_to())).scalar() or 0
            kept = _kept(session)
            if kept is None:
                # A hub that has no telemetry yet has all of it in quarters.
                begins = floored(self._clock() + _BEGINS_AFTER, HOUR) if until else _EPOCH
                kept = Kept(window_id=until, since=begins)
                _note(session, kept)
        if until <= kept.window_id:
            return
        batch: dict[tuple[str, datetime], tuple[int, Sum]] = {}
        for number, device in enumerate(devices(self._database), 1):
            batch |= self._due(device, kept, until)
            if number % _DEVICES_AT_ONCE == 0:
                self._write(batch)
                batch = {}
        self._write(batch)
        with self._database.session() as session:
            _note(session, Kept(until, kept.since))

    def _due(self, device: str, kept: Kept, until: int) -> dict[tuple[str, datetime], tuple[int, Sum]]:
        """Return the device's quarters that have new windows, as they are with them."""
        with self._database.session() as session:
            windows = [*self._windows(session, device, kept, until)]
            if not windows:
                return {}
            starts = {floored(window.started_at, QUARTER) for _, window in windows}
            before = _stored(session, device, min(starts), max(starts) + timedelta(seconds=QUARTER))
        new: defaultdict[datetime, list[Summed]] = defaultdict(list)
        newest: dict[datetime, int] = {}
        for id_, window in windows:
            start = floored(window.started_at, QUARTER)
            known = before.get(start)
            if known is not None and id_ <= known[0]:
                continue
            new[start].append(window)
            newest[start] = id_
        parts = {start: [*([before[start][1]] if start in before else []), *each] for start, each in new.items()}
        return {(device, start): (newest[start], summed(each, start)) for start, each in parts.items()}

    def _windows(
        self, session: Session, device: str, kept: Kept, until: int | None = None
    ) -> Iterator[tuple[int, Summed]]:
        """Yield the device's windows that are not in quarters and belong there, with their ids, in their order."""
        place = col(TelemetryWindowRow.id)
        # Of the index alone; what lies at them is read ahead.
        asked = select(place).where(col(TelemetryWindowRow.device) == device, place > kept.window_id)
        if until is not None:
            asked = asked.where(place <= until)
        ids = [id_ for id_ in session.exec(asked) if id_ is not None]
        self._ahead.fetch_ids("telemetry_window", ids)
        rows = summed_columns(place).where(place.in_(ids)).order_by(place)
        return ((id_, one) for id_, one in numbered_sums_of(session, rows) if one.started_at >= kept.since)

    def _write(self, quarters: Mapping[tuple[str, datetime], tuple[int, Sum]]) -> None:
        if not quarters:
            return
        rows = [
            {
                "device": device,
                "started_at": start,
                "window_id": window_id,
                "window_count": sum_.window_count,
                "figures": packed_sum(sum_),
            }
            for (device, start), (window_id, sum_) in quarters.items()
        ]
        with self._database.session() as session:
            self._database.begin_writing(session)
            upsert(session, _TABLE, rows, ("device", "started_at"), _VALUES)

    def of(self, session: Session, device: str, since: datetime, until: datetime) -> tuple[list[Summed], datetime]:
        """Return quarters, and windows that are in none yet, which began in this time, and before when windows have to be asked."""
        kept = _kept(session)
        if kept is None or kept.since >= until:
            return [], until
        begun = max(since, kept.since)
        stored = _stored(session, device, begun, until)
        rest = [
            window
            for id_, window in self._windows(session, device, kept)
            if begun <= window.started_at < until and id_ > _newest(stored, window.started_at)
        ]
        return [*(sum_ for _, sum_ in stored.values()), *rest], begun

    def keep_since(self, since: datetime) -> None:
        """Answer from windows again what was before; `forget` then removes it."""
        with self._database.session() as session:
            kept = _kept(session)
            if kept is not None and since > kept.since:
                _note(session, Kept(kept.window_id, floored(since, HOUR)))

    def forget(self, device: str, before: datetime) -> None:
        """Remove the device's quarters that began before."""
        old = delete(TelemetryQuarter).where(
            col(TelemetryQuarter.device) == device, col(TelemetryQuarter.started_at) < before
        )
        with self._database.session() as session:
            session.exec(old)


def devices(database: Database) -> Iterator[str]:
    """Yield the devices that have telemetry: one look into an index for each, however many windows there are."""
    last = ""
    while True:
        following = select(TelemetryWindowRow.device).where(col(TelemetryWindowRow.device) > last)
        with database.session() as session:
            found = session.exec(following.order_by(col(TelemetryWindowRow.device)).limit(1)).first()
        if found is None:
            return
        yield found
        last = found


def in_quarters_up_to() -> sa.ScalarSelect[int]:
    """Return the id of the window up to which all are in quarters, as part of a statement."""
    return sa.select(_ADDED.c.window_id).scalar_subquery()


def _newest(stored: Mapping[datetime, tuple[int, Sum]], started_at: datetime) -> int:
    window_id, _ = stored.get(floored(started_at, QUARTER), (0, None))
    return window_id


def _stored(session: Session, device: str, since: datetime, until: datetime) -> dict[datetime, tuple[int, Sum]]:
    columns = sa.select(*(_TABLE.c[name] for name in ("started_at", *_VALUES)))
    asked = columns.where(_TABLE.c.device == device, _TABLE.c.started_at >= since, _TABLE.c.started_at < until)
    rows = session.connection().execute(asked)
    return {start: (id_, unpacked_sum(start, count, figures)) for start, id_, count, figures in rows}


def _kept(session: Session) -> Kept | None:
    row = session.connection().execute(sa.select(_ADDED.c.window_id, _ADDED.c.since)).first()
    return None if row is None else Kept(*row)


def _note(session: Session, kept: Kept) -> None:
    upsert(session, _ADDED, [{"id": 1, **kept._asdict()}], ("id",), Kept._fields)
