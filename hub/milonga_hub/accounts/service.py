"""People who may use the hub: accounts with a password and a role, and who it is that calls."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, func, select

from milonga_hub.accounts.api_keys import PREFIX as API_KEY_PREFIX
from milonga_hub.accounts.api_keys import ApiKeys
from milonga_hub.accounts.attempts import Attempts
from milonga_hub.accounts.audit import AuditLog
from milonga_hub.accounts.local_key import PREFIX as LOCAL_PREFIX
from milonga_hub.accounts.local_key import LocalKey
from milonga_hub.accounts.models import Account, ApiKey
from milonga_hub.accounts.oidc import provider
from milonga_hub.accounts.passwords import Passwords
from milonga_hub.accounts.rules import LOCAL_NAME, check_name, check_password, lesser
from milonga_hub.accounts.rules_oidc import Identity
from milonga_hub.accounts.sessions import Sessions
from milonga_hub.callers import Caller, CallerKind, Role
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied, Unauthenticated
from milonga_hub.paging import page
from milonga_hub.settings import Settings

_WRONG = "this name and password do not belong together"


class AccountService:
    """Methods with passwords take some 50 ms: call them beside the event loop."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        fingerprint: str,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        passwords: Passwords | None = None,
    ) -> None:
        """`folder` gets the local key; `fingerprint` is that of the hub's authority."""
        self._database = database
        self._clock = clock
        self._passwords = passwords or Passwords()
        self._attempts = Attempts(database, clock)
        self._set_up_code = secrets.token_urlsafe(32)
        self._setting_up = database.turn("accounts")
        self.fingerprint = fingerprint
        self.local_key = LocalKey(folder, fingerprint)
        self.sessions = Sessions(database, settings.session_days, clock)
        self.api_keys = ApiKeys(database, clock)
        self.audit = AuditLog(database, settings.audit_days, clock)
        self.provider = provider(settings)

    # Who calls

    def caller_of_key(self, secret: str) -> Caller:
        """Return who has this key. Raises Unauthenticated where nobody has."""
        if secret.startswith(LOCAL_PREFIX) and self.local_key.is_this(secret):
            return Caller(LOCAL_NAME, CallerKind.LOCAL, Role.ADMIN)
        if secret.startswith(API_KEY_PREFIX):
            with self._database.session() as session:
                key = self.api_keys.find(session, secret)
                caller = None if key is None else self._caller_of(session, key)
            if caller is not None:
                return caller
        raise Unauthenticated(
            "this key is not one of this hub's, or it has expired or was deleted; get a new one: milonga login HOST:PORT"
        )

    def caller_of_session(self, secret: str) -> Caller | None:
        """Return who is signed in with this session, None where nobody is any more."""
        with self._database.session() as session:
            account = session.get(Account, self.sessions.account_of(session, secret))
        return None if account is None else _caller(account)

    def _caller_of(self, session: Session, key: ApiKey) -> Caller | None:
        if not key.account:
            return Caller(f"key {key.label}", CallerKind.API_KEY, key.role, key.id, **_limits(key))
        account = session.get(Account, key.account)
        if account is None:
            return None
        role = lesser(key.role, account.role)
        return Caller(account.name, CallerKind.API_KEY, role, key.id, account.name, **_limits(key))

    # Signing in

    def sign_in(self, name: str, password: str, address: str) -> Caller:
        """Return whose password this is. Raises Unauthenticated, or TooOften for who guesses."""
        self._attempts.begin(name, address)
        with self._database.session() as session:
            account = session.get(Account, name)
        if not self._passwords.matches(account.password_hash if account else None, password) or account is None:
            raise Unauthenticated(_WRONG)
        self._attempts.succeeded(name, address)
        with self._database.session() as session:
            account = session.get(Account, name)
            if account is None:
                raise Unauthenticated(_WRONG)
            account.signed_in_at = self._clock()
            if self._passwords.is_outdated(account.password_hash):
                account.password_hash = self._passwords.hash(password)
            session.add(account)
        return _caller(account)

    def sign_in_by_provider(self, who: Identity) -> Caller:
        """Return the account of somebody whom the provider vouches for; it is made at the first sign-in.

        Raises PermissionDenied where an account of that name has a password: whose it is, the provider cannot know.
        """
        with self._setting_up, self._database.session() as session:
            account = session.exec(select(Account).where(Account.subject == who.subject)).first()
            if account is None:
                account = self._new_account(session, who)
            elif who.is_mapped and account.role is not who.role and not _is_last_admin(session, account):
                account.role = who.role
            account.signed_in_at = self._clock()
            session.add(account)
        return _caller(account)

    def _new_account(self, session: Session, who: Identity) -> Account:
        if session.get(Account, who.name) is not None:
            raise PermissionDenied(
                f"there is an account {who.name} that did not come from here; sign in by password, or ask an admin to delete it"
            )
        if who.role is not Role.ADMIN and session.exec(select(Account.name).limit(1)).first() is None:
            raise PermissionDenied("the first account of a hub is an admin's; make it with the link of `milonga up`")
        return Account(name=who.name, role=who.role, password_hash="", subject=who.subject, created_at=self._clock())

    @property
    def set_up_path(self) -> str:
        """Return the path of the page that makes the first account, "" once there is one. It is good for this start alone."""
        return "" if self.has_accounts() else f"/setup?code={self._set_up_code}"

    def is_set_up_code(self, code: str) -> bool:
        """Return whether this code, from the terminal in which the hub was started, may make the first account."""
        return hmac.compare_digest(code.encode(), self._set_up_code.encode()) and not self.has_accounts()

    def set_up(self, code: str, name: str, password: str) -> Caller:
        """Make the first account, an admin. Raises PermissionDenied without the code."""
        with self._setting_up:
            if not self.is_set_up_code(code):
                raise PermissionDenied(
                    "this link is used up or of an earlier start; make accounts with: milonga users add NAME --role admin"
                )
            return _caller(self.create(name, Role.ADMIN, password))

    # Accounts

    def has_accounts(self) -> bool:
        with self._database.session() as session:
            return session.exec(select(Account.name).limit(1)).first() is not None

    def has_password(self, name: str) -> bool:
        """Return whether the account can sign in by a password; those of a provider cannot until they are given one."""
        with self._database.session() as session:
            account = session.get(Account, name)
            return account is not None and bool(account.password_hash)

    def list(self, page_size: int = 0, page_token: str = "") -> tuple[list[Account], str]:
        with self._database.session() as session:
            return page(session, select(Account), col(Account.name), page_size, page_token)

    def create(self, name: str, role: Role, password: str) -> Account:
        check_name(name)
        check_password(name, password)
        kept = self._passwords.hash(password)
        account = Account(name=name, role=role, password_hash=kept, created_at=self._clock())
        with self._database.session() as session:
            if session.get(Account, name) is not None:
                raise AlreadyExists(f"there is an account {name} already; see: milonga users ls")
            session.add(account)
        return account

    def set_role(self, name: str, role: Role) -> Account:
        """Change what somebody may, from their next call on. One admin stays."""
        with self._database.session() as session:
            account = _get(session, name)
            if account.role is Role.ADMIN and role is not Role.ADMIN:
                _check_other_admin(session, name)
            account.role = role
            session.add(account)
        return account

    def set_password(self, caller: Caller, name: str, old_password: str, password: str, address: str) -> Account:
        """Change one's own password, which needs the old one, or as an admin somebody else's. Ends all its sessions."""
        self._check_own(caller, name)
        if caller.account == name:
            self.sign_in(name, old_password, address)
        check_password(name, password)
        kept = self._passwords.hash(password)
        with self._database.session() as session:
            account = _get(session, name)
            account.password_hash = kept
            session.add(account)
            self.sessions.end_all(session, name)
        return account

    def set_language(self, caller: Caller, language: str) -> None:
        """Let pages speak this language to the caller's account from the next one on; "" leaves it to the browser."""
        with self._database.session() as session:
            account = _get(session, caller.account)
            account.language = language
            session.add(account)

    def end_sessions(self, caller: Caller, name: str) -> int:
        """Sign the account out of all browsers; return of how many."""
        self._check_own(caller, name)
        with self._database.session() as session:
            _get(session, name)
            return self.sessions.end_all(session, name)

    def delete(self, name: str) -> None:
        """Forget the account, its sessions and its keys. One admin stays."""
        with self._database.session() as session:
            account = _get(session, name)
            if account.role is Role.ADMIN:
                _check_other_admin(session, name)
            self.sessions.end_all(session, name)
            self.api_keys.delete_all(session, name)
            session.delete(account)

    @staticmethod
    def _check_own(caller: Caller, name: str) -> None:
        if caller.account != name and not caller.role.may(Role.ADMIN):
            raise PermissionDenied(f"only {name} and admins may do this")


def _limits(key: ApiKey) -> dict[str, Any]:
    return {"scopes": tuple(key.scopes), "projects": tuple(key.projects)}


def _caller(account: Account) -> Caller:
    return Caller(account.name, CallerKind.ACCOUNT, account.role, account=account.name, language=account.language)


def _get(session: Session, name: str) -> Account:
    account = session.get(Account, name)
    if account is None:
        raise NotFound(f"there is no account {name}; see: milonga users ls")
    return account


def _is_last_admin(session: Session, account: Account) -> bool:
    others = select(func.count()).select_from(Account).where(Account.role == Role.ADMIN, Account.name != account.name)
    return account.role is Role.ADMIN and session.exec(others).one() == 0


def _check_other_admin(session: Session, name: str) -> None:
    if _is_last_admin(session, _get(session, name)):
        raise FailedPrecondition(
            f"{name} is the only admin; make another one first: milonga users add NAME --role admin"
        )
