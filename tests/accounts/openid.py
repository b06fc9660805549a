"""A small OpenID provider of its own port: it signs whatever a test lets it say."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlencode

import uvicorn
from fastapi import FastAPI, Form, Header
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "milonga-hub", "a secret: of/the client"


def _key(name: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"}, private=True)


@dataclass
class Provider:
    """What it says; tests change that."""

    issuer: str = ""
    key: RSAKey = field(default_factory=lambda: _key("one"))
    # What of its keys it shows.
    shown: list[RSAKey] = field(default_factory=list)
    # Over what it says otherwise; None leaves a claim out.
    claims: dict[str, Any] = field(default_factory=dict)
    # Query of authorization by code.
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    algorithm: str = "RS256"
    told_issuer: str = ""

    def __post_init__(self) -> None:
        self.shown = [self.key]

    def token(self, nonce: str) -> str:
        now = int(time.time())
        said = {
            "iss": self.issuer, "aud": CLIENT_ID, "sub": "0815", "iat": now, "exp": now + 300, "nonce": nonce,
            "email": "Kim@Example.com", "email_verified": True, **self.claims,
        }  # fmt: skip
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode({"alg": self.algorithm, "kid": self.key.kid}, said, self.key, algorithms=[self.algorithm])

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        async def describe() -> dict[str, Any]:
            addresses = {name: f"{self.issuer}/{name}" for name in ("authorize", "token", "keys")}
            return {
                "issuer": self.told_issuer or self.issuer,
                "authorization_endpoint": addresses["authorize"],
                "token_endpoint": addresses["token"],
                "jwks_uri": addresses["keys"],
            }

        @app.get("/keys")
        async def keys() -> dict[str, Any]:
            return {"keys": [key.as_dict(private=False) for key in self.shown]}

        @app.get("/authorize")
        async def authorize(
            client_id: str, redirect_uri: str, state: str, nonce: str, code_challenge: str, scope: str
        ) -> Response:
            assert client_id == CLIENT_ID and "openid" in scope
            code = f"code-{len(self.asked)}"
            self.asked[code] = {"nonce": nonce, "challenge": code_challenge, "redirect": redirect_uri}
            return RedirectResponse(f"{redirect_uri}?{urlencode({'code': code, 'state': state})}", 303)

        @app.post("/token")
        async def token(
            code: Annotated[str, Form()],
            redirect_uri: Annotated[str, Form()],
            code_verifier: Annotated[str, Form()],
            authorization: Annotated[str, Header()],
        ) -> Response:
            asked = self.asked.pop(code, {})
            challenge = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest()).decode().rstrip("=")
            # RFC 6749, section 2.3.1: both are written as in a form before they are joined.
            basic = base64.b64encode(b"milonga-hub:a%20secret%3A%20of%2Fthe%20client").decode()
            right = (asked.get("challenge"), asked.get("redirect")) == (challenge, redirect_uri)
            if not right or authorization != f"Basic {basic}":
                return JSONResponse({"error": "invalid_grant"}, 400)
            return JSONResponse({"token_type": "Bearer", "access_token": "x", "id_token": self.token(asked["nonce"])})

        return app


@contextmanager
def running() -> Iterator[Provider]:
    """Run a provider in a thread, on a free port."""
    provider = Provider()
    # Listening before the server runs: whoever asks early waits.
    listening = socket.create_server(("127.0.0.1", 0))
    provider.issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(provider.app(), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join(10)
