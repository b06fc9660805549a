"""Finds out in which language a request wants its pages."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from milonga_hub.web.language import NAMES, asked_for, speak

# Not a secret, and the same for all hubs of a machine. An account's choice goes before it; it is for the page to sign in.
COOKIE = "milonga-language"
_LIFETIME_SECONDS = 400 * 24 * 60 * 60


class Speaking:
    """Middleware; plain ASGI, so that event streams pass through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            chosen = request.cookies.get(COOKIE, "")
            speak(chosen if chosen in NAMES else asked_for(request.headers.get("accept-language", "")))
        await self._app(scope, receive, send)


def remember(request: Request, answer: Response, language: str) -> None:
    """Let the browser keep the language for when nobody is signed in; none lets it ask for its own again."""
    is_secure = request.url.scheme == "https"
    if language:
        answer.set_cookie(
            COOKIE, language, max_age=_LIFETIME_SECONDS, path="/", secure=is_secure, httponly=True, samesite="lax"
        )
    else:
        answer.delete_cookie(COOKIE, path="/", secure=is_secure, httponly=True, samesite="lax")
