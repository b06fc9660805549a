"""Settings: one's own password, sessions and API keys; for admins the accounts of all and the audit log."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from milonga_hub.callers import Role, caller, seen_projects, tell_problem
from milonga_hub.errors import MilongaError
from milonga_hub.web.language import N_, NAMES, gettext
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices
from milonga_hub.web.speaking import remember

_SHOWN_ENTRIES = 100
_DAY_SECONDS = 24 * 60 * 60
# Of API keys that scopes limit; a test holds them equal to those of the gate's table.
AREAS = {
    "accounts": N_("accounts"),
    "alerts": N_("alerts"),
    "datasets": N_("data sets"),
    "devices": N_("devices"),
    "labelling": N_("labelling"),
    "models": N_("models and builds"),
    "projects": N_("projects"),
    "rollouts": N_("rollouts"),
    "runs": N_("runs"),
    "telemetry": N_("telemetry"),
    "webhooks": N_("webhooks"),
}
_SHOWN_PROJECTS = 200
LIFETIMES = ((30, N_("30 days")), (90, N_("90 days")), (366, N_("a year")))


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()
    _add_own(pages, hub)
    _add_api_keys(pages, hub)
    _add_users(pages, hub)

    @pages.get("/settings/audit")
    async def audit(request: Request, caller: str = "", page_token: str = "") -> HTMLResponse:
        entries, following = hub.accounts.audit.page(caller.strip(), _SHOWN_ENTRIES, page_token)
        return render(
            request, "audit.html", entries=entries, following=following, wanted=caller, is_first=not page_token
        )

    @pages.get("/settings/usage")
    def usage(request: Request) -> HTMLResponse:
        """Show what projects take; counted in a thread, since a large data set takes a while the first time."""
        usages = hub.quotas.usages(seen_projects())
        return render(request, "usage.html", me=caller(), usages=usages, is_limited=hub.settings.quotas is not None)

    return pages


def _own(request: Request, hub: HubServices, wrong: str = "", made: str = "", status: int = 200) -> HTMLResponse:
    """Return the page; `made` is the secret of a key that was just made."""
    me = caller()
    return render(
        request,
        "settings.html",
        status=status,
        script="form",
        me=me,
        has_password=hub.accounts.has_password(me.account),
        languages=NAMES,
        roles=[role for role in Role if me.role.may(role)],
        lifetimes=LIFETIMES,
        areas=AREAS,
        projects=hub.projects.list(_SHOWN_PROJECTS)[0],
        api_keys=everything(lambda token: hub.accounts.api_keys.page(me, page_token=token)),
        join_tokens=everything(lambda token: hub.devices.list_join_tokens(page_token=token)),
        wrong=wrong,
        made=made,
    )


def _add_own(pages: APIRouter, hub: HubServices) -> None:
    @pages.get("/settings")
    async def own(request: Request) -> HTMLResponse:
        return _own(request, hub)

    @pages.post("/settings/password")
    async def set_password(
        request: Request, old_password: Annotated[str, Form()] = "", password: Annotated[str, Form()] = ""
    ) -> Response:
        address = request.client.host if request.client else ""
        me = caller()
        try:
            await asyncio.to_thread(hub.accounts.set_password, me, me.account, old_password, password, address)
        except MilongaError as error:
            return _own(request, hub, _told(error), status=400)
        return RedirectResponse("/sign-in?next=/settings", 303)

    @pages.post("/settings/language")
    async def set_language(request: Request, language: Annotated[str, Form()] = "") -> Response:
        """Keep the language for the account, and in the browser for when nobody is signed in."""
        if language and language not in NAMES:
            return _own(request, hub, gettext("Choose a language of the list."), status=400)
        if (me := caller()).account:
            hub.accounts.set_language(me, language)
        answer = RedirectResponse("/settings", 303)
        remember(request, answer, language)
        return answer

    @pages.post("/settings/sessions/end")
    async def end_sessions() -> RedirectResponse:
        me = caller()
        await asyncio.to_thread(hub.accounts.end_sessions, me, me.account)
        return RedirectResponse("/sign-in?next=/settings", 303)


def _add_api_keys(pages: APIRouter, hub: HubServices) -> None:
    @pages.post("/settings/api_keys")
    async def create(
        request: Request,
        label: Annotated[str, Form()] = "",
        role: Annotated[Role, Form()] = Role.VIEWER,
        days: Annotated[int, Form()] = 90,
        scope: Annotated[list[str], Form()] = [],  # noqa: B006
        project: Annotated[list[str], Form()] = [],  # noqa: B006
    ) -> Response:
        """Make a key; its scopes say what role it gets, where some are ticked."""
        seconds = days * _DAY_SECONDS
        try:
            _, secret = hub.accounts.api_keys.create(caller(), label, None if scope else role, seconds, scope, project)
        except MilongaError as error:
            return _own(request, hub, _told(error), status=400)
        return _own(request, hub, made=secret)

    @pages.post("/settings/api_keys/{id}/delete")
    async def delete(id: str) -> RedirectResponse:
        hub.accounts.api_keys.delete(caller(), id)
        return RedirectResponse("/settings", 303)


def _users(request: Request, hub: HubServices, wrong: str = "", status: int = 200) -> HTMLResponse:
    accounts = everything(lambda token: hub.accounts.list(page_token=token))
    return render(request, "users.html", status=status, accounts=accounts, roles=[*Role], me=caller(), wrong=wrong)


def _add_users(pages: APIRouter, hub: HubServices) -> None:
    @pages.get("/settings/users")
    async def users(request: Request) -> HTMLResponse:
        return _users(request, hub)

    @pages.post("/settings/users")
    async def create(
        request: Request,
        name: Annotated[str, Form()] = "",
        role: Annotated[Role, Form()] = Role.VIEWER,
        password: Annotated[str, Form()] = "",
    ) -> Response:
        try:
            await asyncio.to_thread(hub.accounts.create, name.strip(), role, password)
        except MilongaError as error:
            return _users(request, hub, _told(error), 400)
        return RedirectResponse("/settings/users", 303)

    @pages.post("/settings/users/{name}/role")
    async def set_role(request: Request, name: str, role: Annotated[Role, Form()]) -> Response:
        try:
            hub.accounts.set_role(name, role)
        except MilongaError as error:
            return _users(request, hub, _told(error), 400)
        return RedirectResponse("/settings/users", 303)

    @pages.post("/settings/users/{name}/password")
    async def set_password(
        request: Request, name: str, password: Annotated[str, Form()] = "", old_password: Annotated[str, Form()] = ""
    ) -> Response:
        address = request.client.host if request.client else ""
        try:
            await asyncio.to_thread(hub.accounts.set_password, caller(), name, old_password, password, address)
        except MilongaError as error:
            return _users(request, hub, _told(error), 400)
        return RedirectResponse("/settings/users", 303)

    @pages.post("/settings/users/{name}/delete")
    async def delete(request: Request, name: str) -> Response:
        try:
            hub.accounts.delete(name)
        except MilongaError as error:
            return _users(request, hub, _told(error), 400)
        return RedirectResponse("/settings/users", 303)


def _told(error: MilongaError) -> str:
    """Return the error for its page, and tell the audit log of it."""
    tell_problem(f"{type(error).__name__}: {error}")
    return str(error)
