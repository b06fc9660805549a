"""The gate for HTTP: who calls by an API key or a browser's session, what by method and path."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milonga_hub.accounts.gate import Gate
from milonga_hub.accounts.rules_access import HTTP, Access, strictest
from milonga_hub.callers import Caller, Role, ask
from milonga_hub.errors import InvalidInput, MilongaError, Unauthenticated
from milonga_hub.web.cookies import session_of

# A stream ends so long after its listener was signed out.
_VALID_SECONDS = 15.0
_MAX_STRANGERS_BYTES = 16 * 1024
# What no rule knows: looking leads those who are signed in to a page that says so, changing is for admins alone.
_NOWHERE, _NOTHING_TO_CHANGE = Access(Role.VIEWER), Access(Role.ADMIN, changes=True)

Refuse = Callable[[Request, Exception], Awaitable[Response]]


@dataclass(frozen=True)
class Fitting:
    """A pattern that a path fits, with the parts that it names."""

    operation: str
    access: Access
    parts: Mapping[str, str]

    def part(self, name: str) -> str:
        return self.parts.get(name, "")


class Routes:
    """The table of accesses, by patterns of paths."""

    def __init__(self) -> None:
        self._patterns: dict[str, list[tuple[re.Pattern[str], str, Access]]] = {}
        for operation, access in HTTP.items():
            method, _, path = operation.partition(" ")
            self._patterns.setdefault(method, []).append((compile_path(path)[0], operation, access))

    def find(self, method: str, path: str) -> tuple[str, Access, list[Fitting]]:
        """Return the operation, what it asks for, and all that fits.

        Where several patterns fit, the strictest: whichever route answers in the end, it asks for no more.
        """
        there = self._patterns.get("GET" if method == "HEAD" else method, [])
        fitting = [
            Fitting(operation, access, found.groupdict())
            for pattern, operation, access in there
            if (found := pattern.match(path))
        ]
        access = strictest([each.access for each in fitting])
        if access is None:
            operation = f"{method} ?"
            access = _NOWHERE if method in ("GET", "HEAD") else _NOTHING_TO_CHANGE
            return operation, access, [Fitting(operation, access, {})]
        return next(each.operation for each in fitting if each.access == access), access, fitting


class Gated:
    """Middleware in front of all routes; plain ASGI, so that event streams pass through."""

    def __init__(self, app: ASGIApp, gate: Gate, refuse: Refuse) -> None:
        """`refuse` makes the answer for an error."""
        self._app = app
        self._gate = gate
        self._refuse = refuse
        self._routes = Routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        # Not request.url.path: that is read out of the header Host as well, which callers write.
        path = str(scope["path"])
        operation, access, fitting = self._routes.find(request.method, path)
        asking = ask(None)
        host = request.client.host if request.client else ""

        async def record(status: int) -> None:
            if access.changes:
                outcome = "OK" if 0 < status < 400 else asking.problem or str(status or "CANCELLED")
                await self._gate.record(asking, operation, asking.resource or path, outcome, host)

        answered = _Answered(send, record, lambda: self._is_valid(request, access))
        try:
            asking.caller = self._caller(request, access)
            self._gate.check(access, asking.caller)
            for each in fitting:
                self._gate.check_limits(each.operation, each.access, asking, each.part)
            if access.least is None and access.changes and request.method != "GET":
                _check_size(request)
        except MilongaError as error:
            answer = await self._refusal(request, error)
            await answer(scope, receive, answered)
            return
        try:
            await self._app(scope, receive, answered)
        except ClientDisconnect:
            # Of a stream whose listener was signed out.
            if not answered.ended:
                raise
        finally:
            if not answered.status:
                await record(0)

    def _caller(self, request: Request, access: Access) -> Caller | None:
        if access.least is None:
            return None
        return self._gate.identify(
            request.headers.get("authorization", ""), session_of(request, self._gate.accounts.fingerprint)
        )

    def _is_valid(self, request: Request, access: Access) -> bool:
        try:
            self._gate.check(access, self._caller(request, access))
        except MilongaError:
            return False
        return True

    async def _refusal(self, request: Request, error: MilongaError) -> Response:
        if isinstance(error, Unauthenticated) and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"/sign-in?next={quote(_back(request), safe='')}", 303)
        answer = await self._refuse(request, error)
        if isinstance(error, Unauthenticated):
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer


class _Answered:
    """Sends on. A change is recorded before its caller hears of it, and a stream ends whose listener may hear no more."""

    def __init__(self, send: Send, record: Callable[[int], Awaitable[None]], is_valid: Callable[[], bool]) -> None:
        self._send = send
        self._record = record
        self._is_valid = is_valid
        self._looked_at = time.monotonic()
        self.status = 0
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            await self._record(self.status)
        elif message.get("more_body") and time.monotonic() - self._looked_at >= _VALID_SECONDS:
            self._looked_at = time.monotonic()
            if not self._is_valid():
                self.ended = True
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                raise OSError("signed out")
        await self._send(message)


def _back(request: Request) -> str:
    """Return the page to come back to: this one, or that of the form that was sent."""
    if request.method in ("GET", "HEAD"):
        query = request.scope["query_string"].decode("latin-1")
        return quote(str(request.scope["path"])) + (f"?{query}" if query else "")
    page = urlsplit(request.headers.get("referer", ""))
    return page.path if page.netloc == request.headers.get("host") and page.path else "/"


def _check_size(request: Request) -> None:
    """Raise InvalidInput for more than a name and a password: nobody knows yet who sends it."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and int(length[:9]) <= _MAX_STRANGERS_BYTES):
        raise InvalidInput(f"this takes a form of at most {_MAX_STRANGERS_BYTES} bytes, with its length in the header")
