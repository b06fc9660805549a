"""Sign-ins by an OpenID provider: the authorization code flow with PKCE, a state and a nonce.

OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3; RFC 7636. Tokens are checked with joserfc. Nothing that the provider says is
believed before its signature, and no token is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import KeySet

from milonga_hub.accounts.rules_oidc import Admission, Identity, admission, identify
from milonga_hub.db import utc_now
from milonga_hub.errors import FailedPrecondition, Unauthenticated
from milonga_hub.settings import Settings

_log = logging.getLogger(__name__)

# Signatures by a key that the provider keeps for itself; never "none", nor one by the client's secret.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 1 << 20
# How long somebody may take to sign in there, and how many may be at it; strangers can begin as often as they like.
LIFETIME = timedelta(minutes=10)
_MOST_BEGUN = 2000
# Clocks differ.
_LEEWAY_SECONDS = 60
_DESCRIPTION_KEPT = timedelta(hours=1)
_AGAIN = "this sign-in was begun in another browser, or too long ago; begin it again"


@dataclass(frozen=True)
class _Begun:
    """A sign-in on its way, as the hub remembers it."""

    state: str
    nonce: str
    verifier: str
    redirect: str
    # The page of the hub to come back to.
    page: str
    expires_at: datetime


class OpenIdProvider:
    """One provider. Its methods wait for the network: call them beside the event loop."""

    def __init__(
        self, issuer: str, client_id: str, client_secret: str, name: str, rules: Admission,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:  # fmt: skip
        self.name = name
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._rules = rules
        self._clock = clock
        self._begun: dict[str, _Begun] = {}
        self._lock = threading.Lock()
        self._described: tuple[datetime, dict[str, Any]] | None = None
        self._keys: KeySet | None = None

    def begin(self, redirect: str, page: str) -> tuple[str, str]:
        """Return the provider's address to go to, and a secret that the browser keeps until it is back.

        Raises FailedPrecondition where the provider cannot be reached.
        """
        description = self._description()
        state, nonce, verifier, secret = (secrets.token_urlsafe(32) for _ in range(4))
        with self._lock:
            while len(self._begun) >= _MOST_BEGUN:
                del self._begun[next(iter(self._begun))]
            self._begun[_digest(secret)] = _Begun(state, nonce, verifier, redirect, page, self._clock() + LIFETIME)
        asked = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect,
            "scope": "openid email profile",
            "state": state,
            "nonce": nonce,
            "code_challenge": _base64(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        address = str(description["authorization_endpoint"])
        return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(asked)}", secret

    def finish(self, secret: str, state: str, code: str, problem: str = "") -> tuple[dict[str, Any], str]:
        """Return the claims of who came back, checked, and the page to go to; each sign-in ends once.

        `problem` is what the provider said went wrong. Raises Unauthenticated, and FailedPrecondition where the provider
        cannot be reached.
        """
        with self._lock:
            begun = self._begun.pop(_digest(secret), None)
        if begun is None or not hmac.compare_digest(begun.state.encode(), state.encode()):
            raise Unauthenticated(_AGAIN)
        if begun.expires_at <= self._clock():
            raise Unauthenticated(_AGAIN)
        if problem or not code:
            raise Unauthenticated(f"{self.name} let nobody in: {problem or 'no code was sent'}")
        token = self._exchange(code, begun).get("id_token")
        if not isinstance(token, str):
            raise Unauthenticated(f"{self.name} sent no ID token; let it give the scope openid to this hub")
        return self._claims(token, begun.nonce), begun.page

    def identify(self, claims: Mapping[str, Any]) -> Identity:
        """Return who these claims are of. Raises PermissionDenied for who is not let in."""
        return identify(self._issuer, claims, self._rules)

    def _exchange(self, code: str, begun: _Begun) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": begun.redirect,
            "code_verifier": begun.verifier,
        }
        headers = {}
        description = self._description()
        # Basic is what holds where the provider says nothing (OpenID Connect Discovery 1.0, section 3).
        methods = description.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if self._client_secret and "client_secret_basic" in methods:
            pair = f"{quote(self._client_id, safe='')}:{quote(self._client_secret, safe='')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self._client_id}
            form |= {"client_secret": self._client_secret} if self._client_secret else {}
        return self._fetch(str(description["token_endpoint"]), urlencode(form).encode(), headers)

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """Return the checked claims of an ID token (OpenID Connect Core 1.0, section 3.1.3.7)."""
        try:
            claims = dict(self._decoded(token))
            jwt.JWTClaimsRegistry(
                now=lambda: int(self._clock().timestamp()),
                leeway=_LEEWAY_SECONDS,
                iss={"essential": True, "value": self._issuer},
                aud={"essential": True, "value": self._client_id},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": nonce},
            ).validate(claims)
        except ExpiredTokenError as error:
            raise self._refusal(
                "the ID token has expired; compare the clocks of the provider and of the hub"
            ) from error
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise self._refusal(f"the ID token cannot be trusted ({error})") from error
        audience = claims["aud"]
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != self._client_id:
            raise self._refusal("the ID token is meant for another program")
        return claims

    def _decoded(self, token: str) -> Mapping[str, Any]:
        known = self._keys
        if known is not None:
            try:
                return jwt.decode(token, known, algorithms=_ALGORITHMS).claims
            except (JoseError, ValueError):
                # Providers change their keys; it is looked at those of now once.
                pass
        keys = self._fetch(str(self._description()["jwks_uri"]))
        self._keys = KeySet.import_key_set(keys)  # type: ignore[arg-type]
        return jwt.decode(token, self._keys, algorithms=_ALGORITHMS).claims

    def _refusal(self, words: str) -> Unauthenticated:
        _log.warning("a sign-in by %s was refused: %s", self.name, words)
        return Unauthenticated(f"{self.name}: {words}")

    def _description(self) -> dict[str, Any]:
        if self._described is not None and self._described[0] > self._clock():
            return self._described[1]
        found = self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self._issuer:
            raise FailedPrecondition(
                f"the provider calls itself {found.get('issuer')!r}, not {self._issuer!r}; give that as --oidc-issuer"
            )
        self._described = (self._clock() + _DESCRIPTION_KEPT, found)
        return found

    def _fetch(
        self, address: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return a JSON object of the provider. Raises FailedPrecondition where it gives none."""
        try:
            check_address(address)
            request = urllib.request.Request(address, body, {"Accept": "application/json", **(headers or {})})  # noqa: S310
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_SECONDS) as answer:
                found = json.loads(answer.read(_MOST_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("%s does not answer as it should at %s: %s", self.name, address, error)
            raise FailedPrecondition(
                f"{self.name} cannot be reached or refused the hub; the hub's log says more. Try again, or sign in by password"
            ) from error
        if not isinstance(found, dict):
            raise FailedPrecondition(f"{self.name} answered something else than was asked for; try again")
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nowhere: the client's secret is for the provider alone."""


def provider(settings: Settings) -> OpenIdProvider | None:
    """Return the provider of the settings, None without one. Raises ValueError saying what is wrong with them."""
    if not settings.oidc_issuer:
        return None
    check_address(settings.oidc_issuer)
    if not settings.oidc_client_id:
        raise ValueError("--oidc-issuer needs --oidc-client-id: what the provider calls this hub")
    secret = ""
    if settings.oidc_client_secret_file is not None:
        try:
            secret = settings.oidc_client_secret_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"--oidc-client-secret-file cannot be read: {error}") from error
    rules = admission(settings.oidc_role_claim, settings.oidc_roles, settings.oidc_default_role, settings.oidc_domains)
    return OpenIdProvider(settings.oidc_issuer, settings.oidc_client_id, secret, settings.oidc_name, rules)


def check_address(address: str) -> None:
    """Raise ValueError for an address at which anybody on the way could answer; this machine is none."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")):
        raise ValueError(f"{address!r} is not encrypted; the provider's addresses must begin with https://")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
