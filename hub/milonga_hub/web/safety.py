"""Keep other people's pages out: what browsers may load here, and who may send.

A page from elsewhere must not be able to use a browser in which somebody is signed in, nor sign it in as somebody else:
changes are refused when they come from another origin or, with a cookie, from who knows where; and on loopback every request
whose Host is not this machine (DNS rebinding).
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milonga_hub.install.reach import is_loopback

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that, browsers send forms of our own pages with the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HARMLESS = ("GET", "HEAD", "OPTIONS")


class Safety:
    """Middleware for all answers; plain ASGI, so that event streams pass through."""

    def __init__(self, app: ASGIApp, host: str, names: Sequence[str] = ()) -> None:
        """`host` is what the hub listens on, `names` what a proxy on its machine may call it."""
        self._app = app
        self._loopback = is_loopback(host)
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        why_not = self._why_not(str(scope["method"]), Headers(scope=scope))
        if why_not:
            answer = JSONResponse(
                {"error": {"code": "PERMISSION_DENIED", "message": why_not, "reason": "PERMISSION_DENIED"}}, 403
            )
            await answer(scope, receive, send_safely)
        else:
            await self._app(scope, receive, send_safely)

    def _why_not(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        name = _name_of(host)
        if self._loopback and not (is_loopback(name) or name in self._names):
            return (
                f"this hub answers only to its own machine, not as {host}; start it with --host to change that, or with"
                " --server-names where a proxy on its machine asks"
            )
        origin = headers.get("origin")
        if method not in _HARMLESS and origin is not None and urlsplit(origin).netloc != host:
            return f"a page from {origin} may change nothing here"
        # Browsers name no origin with some requests, but always say this of them; programs say neither.
        if method not in _HARMLESS and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "a page from elsewhere may change nothing here"
        if method not in _HARMLESS and "cookie" in headers and origin is None and "sec-fetch-site" not in headers:
            return (
                "this browser does not say which page asks; update it, or let programs send an API key and no cookies"
            )
        return ""


def _name_of(host: str) -> str:
    """Return the name in the header Host, "" for what is none."""
    try:
        return "" if set(host) & set("/?#@\\") else urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
