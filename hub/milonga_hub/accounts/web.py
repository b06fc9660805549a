"""Accounts, API keys and the audit log over REST."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from pydantic import BaseModel

from milonga_hub.accounts.models import AccountView, ApiKeyView, AuditEntry, CallerView
from milonga_hub.accounts.service import AccountService
from milonga_hub.callers import Role, caller
from milonga_hub.web.views import PageSize, PageToken, view, views


class AccountPage(BaseModel):
    accounts: list[AccountView]
    next_page_token: str


class NewAccount(BaseModel):
    name: str
    role: Role
    password: str


class NewRole(BaseModel):
    role: Role


class NewPassword(BaseModel):
    password: str
    # An admin who sets somebody else's leaves it out.
    old_password: str = ""


class EndedSessions(BaseModel):
    ended: int


class ApiKeyPage(BaseModel):
    api_keys: list[ApiKeyView]
    next_page_token: str


class NewApiKey(BaseModel):
    label: str
    # Left out: the least that its scopes need.
    role: Role | None = None
    # 0 means 90 days.
    lifetime_seconds: int = 0
    # Such as "rollouts:write"; none is all that the role may.
    scopes: list[str] = []
    # None is all.
    projects: list[str] = []


class MadeApiKey(BaseModel):
    api_key: ApiKeyView
    # Shown once; the hub keeps only its hash.
    secret: str


class AuditPage(BaseModel):
    audit_entries: list[AuditEntry]
    next_page_token: str


def router(accounts: AccountService) -> APIRouter:
    api = APIRouter(tags=["accounts"])
    _add_accounts(api, accounts)
    _add_own(api, accounts)
    _add_api_keys(api, accounts)

    @api.get("/audit_entries")
    async def list_audit_entries(caller: str = "", page_size: PageSize = 0, page_token: PageToken = "") -> AuditPage:
        """List who changed what, the newest first."""
        found, token = accounts.audit.page(caller, page_size, page_token)
        return AuditPage(audit_entries=found, next_page_token=token)

    return api


def _add_accounts(api: APIRouter, accounts: AccountService) -> None:
    @api.get("/accounts")
    async def list_accounts(page_size: PageSize = 0, page_token: PageToken = "") -> AccountPage:
        found, token = accounts.list(page_size, page_token)
        return AccountPage(accounts=views(AccountView, found), next_page_token=token)

    @api.post("/accounts", status_code=201)
    async def create_account(body: NewAccount) -> AccountView:
        made = await asyncio.to_thread(accounts.create, body.name, body.role, body.password)
        return view(AccountView, made)

    @api.post("/accounts/{name}:set_role")
    async def set_role(name: str, body: NewRole) -> AccountView:
        """Change what somebody may, from their next call on."""
        return view(AccountView, accounts.set_role(name, body.role))

    @api.delete("/accounts/{name}", status_code=204)
    async def delete_account(name: str) -> None:
        """Forget the account, its sessions and its API keys."""
        accounts.delete(name)


def _add_own(api: APIRouter, accounts: AccountService) -> None:
    @api.get("/me")
    async def who_am_i() -> CallerView:
        return CallerView.model_validate(vars(caller()))

    @api.post("/accounts/{name}:set_password")
    async def set_password(request: Request, name: str, body: NewPassword) -> AccountView:
        """Change one's own password or, as an admin, somebody else's; ends all sessions of the account."""
        address = request.client.host if request.client else ""
        changed = await asyncio.to_thread(
            accounts.set_password, caller(), name, body.old_password, body.password, address
        )
        return view(AccountView, changed)

    @api.post("/accounts/{name}:end_sessions")
    async def end_sessions(name: str) -> EndedSessions:
        """Sign the account out of all browsers."""
        return EndedSessions(ended=accounts.end_sessions(caller(), name))


def _add_api_keys(api: APIRouter, accounts: AccountService) -> None:
    @api.get("/api_keys")
    async def list_api_keys(page_size: PageSize = 0, page_token: PageToken = "") -> ApiKeyPage:
        """List one's own keys; an admin sees all."""
        found, token = accounts.api_keys.page(caller(), page_size, page_token)
        return ApiKeyPage(api_keys=views(ApiKeyView, found), next_page_token=token)

    @api.post("/api_keys", status_code=201)
    async def create_api_key(body: NewApiKey) -> MadeApiKey:
        """Make a key for a program; its secret is shown only now."""
        key, secret = accounts.api_keys.create(
            caller(), body.label, body.role, body.lifetime_seconds, body.scopes, body.projects
        )
        return MadeApiKey(api_key=view(ApiKeyView, key), secret=secret)

    @api.delete("/api_keys/{id}", status_code=204)
    async def delete_api_key(id: str) -> None:
        accounts.api_keys.delete(caller(), id)
