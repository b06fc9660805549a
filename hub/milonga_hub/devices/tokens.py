"""Join tokens: derived from the hub's own key instead of being kept, and with the fingerprint of its authority in them."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col, select

from milonga_hub.db import UTC_TIME, Database
from milonga_hub.devices.models import JoinToken
from milonga_hub.devices.rules import check_labels
from milonga_hub.errors import InvalidInput, Unauthenticated
from milonga_hub.hashes import hash_of
from milonga_hub.paging import page

_KEY_BYTES = 32
_DAY_SECONDS = 24 * 60 * 60
_MAX_LIFETIME_SECONDS = 366 * _DAY_SECONDS
_NEW_TOKEN = "make a new one: milonga tokens create"  # noqa: S105 (a hint, not a secret)

# One statement where all is well, made once: a fleet that joins as one asks thousands of times.
_USE = (
    sa.update(JoinToken)
    .where(
        col(JoinToken.secret_hash) == sa.bindparam("hashed"),
        col(JoinToken.uses_left) > 0,
        col(JoinToken.expires_at) > sa.bindparam("now", type_=UTC_TIME),
    )
    .values(uses_left=col(JoinToken.uses_left) - 1)
    .returning(col(JoinToken.labels))
)


class HubKey:
    """The hub's own secret, made at the first start and kept in a file that only its user may read."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        self._key = path.read_bytes()
        if len(self._key) != _KEY_BYTES:
            raise InvalidInput(
                f"{path} is damaged; restore it from a backup, or delete it, whereupon open join tokens are void"
            )

    def derive(self, purpose: str, *parts: str) -> str:
        """Return the secret for these parts: always the same one, and nobody without the key can tell it."""
        message = "\0".join((purpose, *parts)).encode()
        return base64.urlsafe_b64encode(hmac.digest(self._key, message, "sha256")).decode().rstrip("=")


def _create(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # Unlike a rename, this never replaces a key that is already there.
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


class JoinTokens:
    """Tokens with which machines become devices."""

    def __init__(self, database: Database, key: HubKey, clock: Callable[[], datetime], authority: str) -> None:
        """`authority` is the fingerprint by which machines that join know this hub."""
        self._database = database
        self._pin = authority.removeprefix("sha256:")
        self._key = key
        self._clock = clock

    def create(
        self, labels: Mapping[str, str], uses: int, lifetime_seconds: int, request_id: str
    ) -> tuple[JoinToken, str]:
        """Return a new token and its secret, or those that the same request made before."""
        check_labels(labels)
        if uses < 0:
            raise InvalidInput("uses must not be negative; 0 means one")
        if not 0 <= lifetime_seconds <= _MAX_LIFETIME_SECONDS:
            raise InvalidInput(f"lifetime_seconds must be 0 (24 hours) to {_MAX_LIFETIME_SECONDS} (a year)")
        id_ = "t-" + hash_of(request_id or secrets.token_hex(16))[:12]
        secret = "mt_" + self._key.derive("join-token", request_id or secrets.token_hex(16))
        now = self._clock()
        token = JoinToken(
            id=id_,
            labels=dict(labels),
            uses_left=uses or 1,
            created_at=now,
            expires_at=now + timedelta(seconds=lifetime_seconds or _DAY_SECONDS),
            secret_hash=hash_of(secret),
        )
        secret = f"{secret}.{self._pin}"
        with self._database.session() as session:
            known = session.get(JoinToken, id_)
            if known is not None:
                return known, secret
            session.add(token)
        return token, secret

    def page(self, page_size: int = 0, page_token: str = "") -> tuple[list[JoinToken], str]:
        with self._database.session() as session:
            return page(session, select(JoinToken), col(JoinToken.id), page_size, page_token)

    def take(self, session: Session, secret: str) -> dict[str, str]:
        """Use the token once, in the caller's transaction, and return its labels.

        Raises Unauthenticated where it does not let anyone in.
        """
        hashed, now = hash_of(secret.partition(".")[0]), self._clock()
        used = session.connection().execute(_USE, {"hashed": hashed, "now": now}).first()
        if used is not None:
            return dict(used.labels)
        token = session.exec(select(JoinToken).where(JoinToken.secret_hash == hashed)).first()
        if token is None:
            raise Unauthenticated(f"this join token is not one of this hub's; {_NEW_TOKEN}")
        if token.expires_at <= now:
            raise Unauthenticated(
                f"join token {token.id} expired at {token.expires_at:%Y-%m-%d %H:%M} UTC; {_NEW_TOKEN}"
            )
        raise Unauthenticated(f"join token {token.id} is used up; {_NEW_TOKEN}")
