"""Keys with which programs and command lines call the hub."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlmodel import Session, col, delete, func, select, update

from milonga_hub.accounts.models import ApiKey
from milonga_hub.accounts.rules import check_given_role, check_label, check_projects, contains, given, key_lifetime
from milonga_hub.accounts.rules_scopes import allows, check_scopes, least_role
from milonga_hub.callers import Caller, Role
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.hashes import hash_of
from milonga_hub.paging import page

PREFIX = "mkey_"
_MOST_OF_ACCOUNT = 100
_USE_NOTED_EVERY = timedelta(minutes=1)


class ApiKeys:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        caller: Caller,
        label: str,
        role: Role | None = None,
        lifetime_seconds: int = 0,
        scopes: Sequence[str] = (),
        projects: Sequence[str] = (),
    ) -> tuple[ApiKey, str]:
        """Return a new key of the caller and its secret. No role is the least that its scopes need.

        A key that is made with a key ends with it at the latest, and reaches no more.
        """
        check_label(label)
        given_scopes = given(caller.scopes, check_scopes(scopes), "scopes", allows)
        given_projects = given(caller.projects, check_projects(projects), "projects", contains)
        if role is None and not given_scopes:
            raise InvalidInput(
                "role must be given: viewer, operator or admin; or scopes, which need the least role that may them"
            )
        role = role or least_role(given_scopes)
        check_given_role(caller.role, role)
        now = self._clock()
        expires_at = now + key_lifetime(lifetime_seconds)
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._database.session() as session:
            maker = session.get(ApiKey, caller.key_id) if caller.key_id else None
            key = ApiKey(
                id="k-" + secrets.token_hex(6),
                label=label.strip(),
                account=caller.account,
                role=role,
                created_at=now,
                expires_at=min(expires_at, maker.expires_at) if maker else expires_at,
                secret_hash=hash_of(secret),
                scopes=[*given_scopes],
                projects=[*given_projects],
            )
            session.exec(delete(ApiKey).where(col(ApiKey.expires_at) <= now))
            count = select(func.count()).select_from(ApiKey).where(ApiKey.account == caller.account)
            if session.exec(count).one() >= _MOST_OF_ACCOUNT:
                raise FailedPrecondition(
                    f"there are {_MOST_OF_ACCOUNT} API keys already; delete those that nobody uses"
                )
            session.add(key)
        return key, secret

    def find(self, session: Session, secret: str) -> ApiKey | None:
        """Return the key with this secret, None for none that goes on."""
        key = session.exec(select(ApiKey).where(ApiKey.secret_hash == hash_of(secret))).first()
        now = self._clock()
        if key is None or key.expires_at <= now:
            return None
        if key.used_at is None or now - key.used_at >= _USE_NOTED_EVERY:
            session.exec(update(ApiKey).where(col(ApiKey.id) == key.id).values(used_at=now))
        return key

    def page(self, caller: Caller, page_size: int = 0, page_token: str = "") -> tuple[list[ApiKey], str]:
        """Return the keys of the caller's account (a key of no account is alone), or all where it is an admin."""
        statement = select(ApiKey).where(col(ApiKey.expires_at) > self._clock())
        if not caller.role.may(Role.ADMIN):
            own = ApiKey.account == caller.account if caller.account else ApiKey.id == caller.key_id
            statement = statement.where(own)
        with self._database.session() as session:
            return page(session, statement, col(ApiKey.id), page_size, page_token)

    def delete(self, caller: Caller, id: str) -> None:
        """End one of the caller's own keys, or any where it is an admin. Raises NotFound."""
        with self._database.session() as session:
            key = session.get(ApiKey, id)
            if key is None or not _may_end(caller, key):
                raise NotFound(f"you have no API key {id}; see: milonga api-keys ls")
            session.delete(key)

    def delete_all(self, session: Session, account: str) -> None:
        """End all keys of the account, in the caller's transaction."""
        session.exec(delete(ApiKey).where(col(ApiKey.account) == account))


def _may_end(caller: Caller, key: ApiKey) -> bool:
    if caller.is_limited and not (allows(caller.scopes, "accounts:write") and not caller.projects):
        return key.id == caller.key_id
    is_own = key.account == caller.account if caller.account else key.id == caller.key_id
    return is_own or caller.role.may(Role.ADMIN)
