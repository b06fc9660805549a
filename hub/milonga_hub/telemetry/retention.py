"""Keep telemetry small: old windows are merged, very old ones forgotten, a little at a time beside the intake."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlmodel import col, delete, update

from milonga_hub.db import Database, utc_now
from milonga_hub.telemetry import memory
from milonga_hub.telemetry.models import TelemetryWindowRow
from milonga_hub.telemetry.quarters import Quarters, devices, in_quarters_up_to
from milonga_hub.telemetry.rows import all_columns, windows_of
from milonga_hub.telemetry.rules_quarters import QUARTER
from milonga_hub.telemetry.rules_retention import HOUR, Retention, grouped, merged
from milonga_hub.telemetry.totals import Totals, forget

_log = logging.getLogger(__name__)

# Of one device in one transaction: at 30 seconds a window, 17 hours; the intake waits for milliseconds.
_BATCH_WINDOWS = 2000
# Once an hour.
_QUARTERS_A_PASS = 4


class Keeper:
    """Merges in place: queries find coarser windows where only those are left, and need not know.

    A merged window bears the name of its first. One of the others that came again after so many days, because its
    acknowledgement was lost and its device has been away since, would be counted twice; devices that stay send again
    within minutes.
    """

    def __init__(
        self,
        database: Database,
        totals: Totals,
        quarters: Quarters,
        retention: Retention,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._totals = totals
        self._quarters = quarters
        self._retention = retention
        self._clock = clock

    async def run(self) -> None:
        """Add up quarters as they end, and go through all devices once an hour, until cancelled. What was not done when the hub
        ends is done later."""
        passes = 0
        while True:
            try:
                await asyncio.to_thread(self.add_up)
                if passes % _QUARTERS_A_PASS == 0:
                    await self._pass()
            except Exception:
                # A database that is busy for long must not end the hub.
                _log.exception("could not merge old telemetry; trying again in a quarter of an hour")
            else:
                passes += 1
            await asyncio.sleep(QUARTER)

    async def _pass(self) -> None:
        for forgets in (forget, memory.forget):
            await asyncio.to_thread(forgets, self._database, self._clock(), self._retention.days)
        for device in await asyncio.to_thread(lambda: [*devices(self._database)]):
            while await asyncio.to_thread(self.tidy, device):
                pass

    def add_up(self) -> None:
        """Have all that came until now in totals and quarters; only that is merged."""
        self._totals.write()
        self._quarters.add()
        self._quarters.keep_since(self._quarters_since())

    def tidy(self, device: str) -> bool:
        """Do one batch of what is due for the device; return whether there may be more."""
        now = self._clock()
        self._forget(device, self._retention.forgotten_before(now))
        # Where an answer may still be on its way they were looked for an hour earlier.
        self._quarters.forget(device, self._quarters_since() - timedelta(seconds=HOUR))
        more = [self._merge(device, seconds, before) for seconds, before in self._retention.levels(now)]
        return any(more)

    def _quarters_since(self) -> datetime:
        """Return from when on quarters are kept: before, windows are an hour long, and few."""
        return min(before for _, before in self._retention.levels(self._clock()))

    def _forget(self, device: str, before: datetime) -> None:
        old = delete(TelemetryWindowRow).where(
            col(TelemetryWindowRow.device) == device, col(TelemetryWindowRow.ended_at) < before
        )
        with self._database.session() as session:
            session.exec(old)

    def _merge(self, device: str, seconds: int, before: datetime) -> bool:
        finer = (
            all_columns()
            .where(
                col(TelemetryWindowRow.device) == device,
                col(TelemetryWindowRow.resolution_seconds) < seconds,
                col(TelemetryWindowRow.ended_at) < before,
                col(TelemetryWindowRow.id) <= in_quarters_up_to(),
            )
            .order_by(col(TelemetryWindowRow.ended_at))
            .limit(_BATCH_WINDOWS)
        )
        with self._database.session() as session:
            windows = [*windows_of(session, finer)]
            for group in grouped(windows, seconds):
                first, *others = sorted(group, key=lambda window: window.id or 0)
                one = update(TelemetryWindowRow).where(col(TelemetryWindowRow.id) == first.id)
                session.exec(one.values(**merged(group), resolution_seconds=seconds))
                ids = [window.id for window in others]
                session.exec(delete(TelemetryWindowRow).where(col(TelemetryWindowRow.id).in_(ids)))
        return len(windows) == _BATCH_WINDOWS
