"""Browsers in which somebody is signed in. A session ends by itself, by signing out, and with its account."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlmodel import Session, col, delete, select

from milonga_hub.accounts.models import BrowserSession
from milonga_hub.db import Database
from milonga_hub.hashes import hash_of

# Somebody who signs in on yet another browser is signed out of the one that they began with.
_MOST_OF_ACCOUNT = 50


class Sessions:
    def __init__(self, database: Database, days: float, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._lifetime = timedelta(days=days)
        self._clock = clock

    @property
    def lifetime_seconds(self) -> int:
        return int(self._lifetime.total_seconds())

    def begin(self, account: str) -> str:
        """Return the secret of a new session; the hub keeps only its hash."""
        secret, now = secrets.token_urlsafe(32), self._clock()
        new = BrowserSession(
            secret_hash=hash_of(secret), account=account, created_at=now, expires_at=now + self._lifetime
        )
        of_account = col(BrowserSession.account) == account
        with self._database.session() as session:
            session.exec(delete(BrowserSession).where(col(BrowserSession.expires_at) <= now))
            session.add(new)
            session.flush()
            newest = (
                select(BrowserSession.secret_hash).where(of_account).order_by(col(BrowserSession.created_at).desc())
            )
            kept = newest.limit(_MOST_OF_ACCOUNT)
            session.exec(delete(BrowserSession).where(of_account, col(BrowserSession.secret_hash).not_in(kept)))
        return secret

    def account_of(self, session: Session, secret: str) -> str:
        """Return whose session this is, "" for none that goes on."""
        found = session.get(BrowserSession, hash_of(secret))
        return "" if found is None or found.expires_at <= self._clock() else found.account

    def end(self, secret: str) -> None:
        with self._database.session() as session:
            session.exec(delete(BrowserSession).where(col(BrowserSession.secret_hash) == hash_of(secret)))

    def end_all(self, session: Session, account: str) -> int:
        """End all sessions of the account, in the caller's transaction, and return how many there were."""
        ended = session.exec(delete(BrowserSession).where(col(BrowserSession.account) == account))
        return int(ended.rowcount)
