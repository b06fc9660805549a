"""Sign in by an OpenID provider: there, and back."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from milonga_hub.accounts.oidc import LIFETIME, OpenIdProvider
from milonga_hub.callers import claim, tell_problem
from milonga_hub.errors import FailedPrecondition, MilongaError, NotFound, PermissionDenied, Unauthenticated
from milonga_hub.web import words
from milonga_hub.web.cookies import begun_of, set_begun
from milonga_hub.web.pages.sign_in import form, own_page, signed_in
from milonga_hub.web.said import said
from milonga_hub.web.services import HubServices

_BACK = "/sign-in/provider/back"
_STATUS: dict[type[MilongaError], int] = {Unauthenticated: 401, PermissionDenied: 403, FailedPrecondition: 502}
_LONGEST_PROBLEM = 200


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    def provider() -> OpenIdProvider:
        found: OpenIdProvider | None = hub.accounts.provider
        if found is None:
            raise NotFound("this hub has no provider to sign in with; see --oidc-issuer of milonga up")
        return found

    @pages.get("/sign-in/provider")
    async def leave(request: Request, next: str = "/") -> Response:
        """Lead to the provider."""
        back = f"{request.url.scheme}://{request.url.netloc}{_BACK}"
        try:
            address, secret = await asyncio.to_thread(provider().begin, back, own_page(next))
        except FailedPrecondition as error:
            return form(request, hub, next, wrong=_sentence(error), status=502)
        answer = RedirectResponse(address, 303)
        set_begun(request, answer, hub.accounts.fingerprint, secret, int(LIFETIME.total_seconds()))
        return answer

    @pages.get(_BACK)
    async def back(
        request: Request, state: str = "", code: str = "", error: str = "", error_description: str = ""
    ) -> Response:
        """Let in whom the provider sends back, or say why not."""
        asked = provider()
        said = (error_description or error)[:_LONGEST_PROBLEM]
        secret = begun_of(request, hub.accounts.fingerprint)
        try:
            claims, page = await asyncio.to_thread(asked.finish, secret, state, code, said)
            claim(str(claims.get("email") or claims["sub"]))
            caller = await asyncio.to_thread(hub.accounts.sign_in_by_provider, asked.identify(claims))
        except (Unauthenticated, PermissionDenied, FailedPrecondition) as problem:
            tell_problem(f"UNAUTHENTICATED: {problem}")
            answer: Response = form(request, hub, "/", wrong=_sentence(problem), status=_STATUS[type(problem)])
        else:
            answer = signed_in(request, hub, caller, page)
        set_begun(request, answer, hub.accounts.fingerprint, "", 0)
        return answer

    return pages


def _sentence(error: MilongaError) -> str:
    return f"{words.capital(said(str(error)))}."
