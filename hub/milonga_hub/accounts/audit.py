"""The audit log: who changed what, when and from where. Written at the door for each changing call, and never changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlmodel import col, delete, select

from milonga_hub.accounts.models import AuditEntry
from milonga_hub.callers import Caller
from milonga_hub.db import Database, utc_now
from milonga_hub.paging import page

_log = logging.getLogger(__name__)

_PASS_SECONDS = 3600.0
_BATCH_ENTRIES = 2000
# What strangers send must not fill the disk.
_LONGEST = 300


class AuditLog:
    def __init__(self, database: Database, days: float, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._kept = timedelta(days=days)
        self._clock = clock

    def add(self, caller: Caller | str, operation: str, resource: str, outcome: str, address: str) -> None:
        """Write one entry; `caller` is only a name where somebody did not get in."""
        known = None if isinstance(caller, str) else caller
        entry = AuditEntry(
            at=self._clock(),
            caller=_cut(caller if isinstance(caller, str) else caller.name),
            kind=known.kind if known else None,
            key_id=known.key_id if known else "",
            operation=_cut(operation),
            resource=_cut(resource),
            outcome=_cut(outcome),
            address=_cut(address),
        )
        with self._database.session() as session:
            session.add(entry)

    def page(self, caller: str = "", page_size: int = 0, page_token: str = "") -> tuple[list[AuditEntry], str]:
        """Return entries, the newest first."""
        statement = select(AuditEntry)
        if caller:
            statement = statement.where(AuditEntry.caller == caller)
        with self._database.session() as session:
            return page(session, statement, col(AuditEntry.id), page_size, page_token, newest_first=True)

    async def run(self) -> None:
        """Forget what is older than it must be, once an hour, until cancelled."""
        while True:
            try:
                while await asyncio.to_thread(self.tidy):
                    pass
            except Exception:
                # A database that is busy for long must not end the hub.
                _log.exception("could not forget old entries of the audit log; trying again in an hour")
            await asyncio.sleep(_PASS_SECONDS)

    def tidy(self) -> bool:
        """Delete a batch of old entries; return whether there may be more."""
        old = select(AuditEntry.id).where(col(AuditEntry.at) < self._clock() - self._kept).limit(_BATCH_ENTRIES)
        with self._database.session() as session:
            deleted = session.exec(delete(AuditEntry).where(col(AuditEntry.id).in_(old)))
        return bool(deleted.rowcount == _BATCH_ENTRIES)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
