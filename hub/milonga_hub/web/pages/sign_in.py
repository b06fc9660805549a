"""Sign in and out, and make the first account with the link that the hub prints at its start."""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from milonga_hub.callers import Caller, claim, prove, tell_problem
from milonga_hub.errors import InvalidInput, PermissionDenied, Unauthenticated
from milonga_hub.web import words
from milonga_hub.web.cookies import forget_session, session_of, set_session
from milonga_hub.web.pages.page import render
from milonga_hub.web.said import said
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()
    _add_sign_in(pages, hub)
    _add_set_up(pages, hub)
    return pages


def form(
    request: Request, hub: HubServices, next: str, name: str = "", wrong: str = "", status: int = 200
) -> HTMLResponse:
    """Return the page to sign in on; `next` is where to go then."""
    return render(
        request,
        "sign_in.html",
        status=status,
        next=own_page(next),
        name=name,
        wrong=wrong,
        is_new=not hub.accounts.has_accounts(),
        provider=hub.accounts.provider,
    )


def _add_sign_in(pages: APIRouter, hub: HubServices) -> None:
    @pages.get("/sign-in")
    async def ask(request: Request, next: str = "/") -> HTMLResponse:
        return form(request, hub, next)

    @pages.post("/sign-in")
    async def sign_in(
        request: Request,
        name: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/",
    ) -> Response:
        name = name.strip()
        claim(name)
        address = request.client.host if request.client else ""
        try:
            caller = await asyncio.to_thread(hub.accounts.sign_in, name, password, address)
        except Unauthenticated as error:
            tell_problem(f"UNAUTHENTICATED: {error}")
            return form(request, hub, next, name, words.capital(said(str(error))) + ".", 401)
        return signed_in(request, hub, caller, own_page(next))

    @pages.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        hub.accounts.sessions.end(session_of(request, hub.accounts.fingerprint))
        answer = RedirectResponse("/sign-in", 303)
        forget_session(request, answer, hub.accounts.fingerprint)
        return answer


def _add_set_up(pages: APIRouter, hub: HubServices) -> None:
    @pages.get("/setup")
    async def ask_for_first(request: Request, code: str = "") -> HTMLResponse:
        is_known = hub.accounts.is_set_up_code(code)
        return render(
            request, "set_up.html", status=200 if is_known else 403, code=code, is_known=is_known, name="", wrong=""
        )

    @pages.post("/setup")
    async def make_first(
        request: Request,
        code: Annotated[str, Form()] = "",
        name: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
    ) -> Response:
        try:
            caller = await asyncio.to_thread(hub.accounts.set_up, code, name.strip(), password)
        except InvalidInput as error:
            wrong = str(error)
            return render(request, "set_up.html", status=400, code=code, is_known=True, name=name, wrong=wrong)
        except PermissionDenied:
            return render(request, "set_up.html", status=403, code="", is_known=False, name="", wrong="")
        return signed_in(request, hub, caller, "/")


def signed_in(request: Request, hub: HubServices, caller: Caller, address: str) -> Response:
    """Lead to the address with a session of the caller's."""
    prove(caller)
    # A new secret each time: what somebody may have planted in the browser before is worth nothing.
    hub.accounts.sessions.end(session_of(request, hub.accounts.fingerprint))
    secret = hub.accounts.sessions.begin(caller.account)
    answer = RedirectResponse(address, 303)
    set_session(request, answer, hub.accounts.fingerprint, secret, hub.accounts.sessions.lifetime_seconds)
    return answer


def own_page(address: str) -> str:
    """Return the address if it is a page of this hub, else the first page: a link must not lead elsewhere after signing in."""
    parts = urlsplit(address)
    is_ours = address.startswith("/") and not address.startswith(("//", "/\\")) and not (parts.scheme or parts.netloc)
    return address if is_ours and address.isprintable() and "\\" not in address else "/"
