"""The cookie of a browser in which somebody is signed in."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

# Browsers take a cookie with this beginning only over https, for this host alone.
_SECURE = "__Host-"


def cookie_name(fingerprint: str, *, is_secure: bool) -> str:
    """Return a name of this hub's own: cookies do not know ports, and several hubs may run on one machine."""
    name = f"milonga-{fingerprint.removeprefix('sha256:')[:8]}"
    return _SECURE + name if is_secure else name


def session_of(request: Request, fingerprint: str) -> str:
    """Return the secret of the browser's session, "" for none."""
    return request.cookies.get(cookie_name(fingerprint, is_secure=request.url.scheme == "https"), "")


def set_session(request: Request, answer: Response, fingerprint: str, secret: str, seconds: int) -> None:
    """Let the browser keep the session; no script sees it, and no other site's form sends it."""
    is_secure = request.url.scheme == "https"
    answer.set_cookie(
        cookie_name(fingerprint, is_secure=is_secure),
        secret,
        max_age=seconds,
        path="/",
        secure=is_secure,
        httponly=True,
        # Not "strict": a link in an e-mail about an alert must find its reader signed in.
        samesite="lax",
    )


def begun_of(request: Request, fingerprint: str) -> str:
    """Return the secret of a sign-in that the browser has begun with a provider, "" for none."""
    return request.cookies.get(f"{cookie_name(fingerprint, is_secure=request.url.scheme == 'https')}-begun", "")


def set_begun(request: Request, answer: Response, fingerprint: str, secret: str, seconds: int) -> None:
    """Let the browser keep the secret until the provider sends it back; 0 seconds forget it."""
    is_secure = request.url.scheme == "https"
    name = f"{cookie_name(fingerprint, is_secure=is_secure)}-begun"
    answer.set_cookie(name, secret, max_age=seconds, path="/", secure=is_secure, httponly=True, samesite="lax")


def forget_session(request: Request, answer: Response, fingerprint: str) -> None:
    is_secure = request.url.scheme == "https"
    answer.delete_cookie(
        cookie_name(fingerprint, is_secure=is_secure), path="/", secure=is_secure, httponly=True, samesite="lax"
    )
