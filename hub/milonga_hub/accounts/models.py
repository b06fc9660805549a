"""Accounts, sessions, API keys and the audit log as they are stored and shown. Secrets are kept as hashes alone."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from milonga_hub.callers import CallerKind, Role
from milonga_hub.db import UTC_TIME, json_of, utc_now


class AccountView(SQLModel):
    """What admins see of an account."""

    name: str = Field(primary_key=True)
    role: Role = Role.VIEWER
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    signed_in_at: datetime | None = Field(default=None, sa_type=UTC_TIME)


class Account(AccountView, table=True):
    # Empty for who signs in by an OpenID provider: no password is right then.
    password_hash: str
    # The provider's issuer and what it calls the person; empty for who has a password.
    subject: str = Field(default="", index=True)
    # In which pages speak to it; empty for what its browser asks for.
    language: str = ""


class BrowserSession(SQLModel, table=True):
    """A browser in which somebody signed in."""

    __tablename__ = "browser_session"
    secret_hash: str = Field(primary_key=True)
    account: str = Field(index=True)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    expires_at: datetime = Field(sa_type=UTC_TIME)


class ApiKeyView(SQLModel):
    id: str = Field(primary_key=True)
    label: str = ""
    # Empty for one that was made with the hub's local key.
    account: str = Field(default="", index=True)
    # At most; what it may is never more than what its account may.
    role: Role = Role.VIEWER
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    expires_at: datetime = Field(sa_type=UTC_TIME)
    # To the minute: every call would be a write.
    used_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    # Such as "rollouts:write"; none is all that the role may.
    scopes: list[str] = Field(default=[], sa_type=json_of(list[str]))
    # None is all.
    projects: list[str] = Field(default=[], sa_type=json_of(list[str]))


class ApiKey(ApiKeyView, table=True):
    __tablename__ = "api_key"
    secret_hash: str = Field(index=True)


class CallerView(SQLModel):
    """Who asks, as they see it themselves."""

    name: str
    kind: CallerKind
    role: Role
    key_id: str = ""
    account: str = ""
    scopes: list[str] = []
    projects: list[str] = []


class FailedSignIns(SQLModel, table=True):
    """How often somebody failed to sign in, for one account or from one address."""

    __tablename__ = "failed_sign_ins"
    subject: str = Field(primary_key=True)
    count: int = 0
    last_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME, index=True)


class AuditEntry(SQLModel, table=True):
    """One changing call. Rows are added, and deleted when they are old; nothing changes them."""

    __tablename__ = "audit_entry"
    id: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME, index=True)
    caller: str = Field(index=True)
    # None for somebody who did not get in.
    kind: CallerKind | None = None
    # Of an API key.
    key_id: str = ""
    operation: str
    resource: str = ""
    outcome: str = ""
    address: str = ""
