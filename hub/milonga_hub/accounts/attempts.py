"""Slow down who guesses passwords: failures are counted for each account and each address, in a table that stays small."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session, col, delete, func, select

from milonga_hub.accounts.models import FailedSignIns
from milonga_hub.accounts.rules import (
    FAILURES_REMEMBERED,
    FREE_FOR_ACCOUNT,
    FREE_FOR_ADDRESS,
    network_of,
    wait_until,
)
from milonga_hub.db import Database
from milonga_hub.errors import TooOften

# Of a flood from everywhere, the newest are kept: a few megabytes.
MAX_ROWS = 10_000


class Attempts:
    def __init__(self, database: Database, clock: Callable[[], datetime], max_rows: int = MAX_ROWS) -> None:
        self._database = database
        self._clock = clock
        self._max_rows = max_rows
        # Many guesses at once must not all be let through before the first has failed.
        self._one_at_a_time = database.turn("attempts")

    def begin(self, account: str, address: str) -> None:
        """Count a try as failed until it has succeeded. Raises TooOften where somebody has to wait first."""
        now = self._clock()
        with self._one_at_a_time, self._database.session() as session:
            session.exec(delete(FailedSignIns).where(col(FailedSignIns.last_at) < now - FAILURES_REMEMBERED))
            rows = [
                (free, session.get(FailedSignIns, subject) or FailedSignIns(subject=subject, count=0, last_at=now))
                for free, subject in (
                    (FREE_FOR_ACCOUNT, _of_account(account)),
                    (FREE_FOR_ADDRESS, _of_address(address)),
                )
            ]
            until = max(wait_until(row.count, free, row.last_at) for free, row in rows)
            if until > now:
                seconds = math.ceil((until - now).total_seconds())
                raise TooOften(f"too many failed sign-ins; try again in {seconds} s", seconds)
            for _, row in rows:
                row.count, row.last_at = row.count + 1, now
                session.add(row)
            session.flush()
            self._forget_oldest(session)

    def succeeded(self, account: str, address: str) -> None:
        """Forget the failures at the account, and this try of the address: who guesses may have an account too."""
        with self._one_at_a_time, self._database.session() as session:
            session.exec(delete(FailedSignIns).where(col(FailedSignIns.subject) == _of_account(account)))
            row = session.get(FailedSignIns, _of_address(address))
            if row is not None:
                row.count -= 1
                session.add(row)

    def _forget_oldest(self, session: Session) -> None:
        excess = session.exec(select(func.count()).select_from(FailedSignIns)).one() - self._max_rows
        if excess > 0:
            oldest = select(FailedSignIns.subject).order_by(col(FailedSignIns.last_at)).limit(excess)
            session.exec(delete(FailedSignIns).where(col(FailedSignIns.subject).in_(oldest)))


def _of_account(name: str) -> str:
    return f"account {name[:100]}"


def _of_address(address: str) -> str:
    return f"address {network_of(address)}"
