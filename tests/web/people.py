"""People who are signed in to the hub of a test, by a real session."""

from __future__ import annotations

import contextlib
from typing import Any

from fastapi.testclient import TestClient
from milonga_hub.callers import Role
from milonga_hub.errors import AlreadyExists
from milonga_hub.transports.http import create_app
from milonga_hub.web.cookies import cookie_name

from tests.web.filled import Services

PASSWORD = "seven wooden floors"
ADDRESS = "http://127.0.0.1"


def cookie_of(hub: Services, name: str = "ana", role: Role = Role.ADMIN) -> dict[str, str]:
    """Return the cookie of somebody who has just signed in, and who gets an account if there is none."""
    with contextlib.suppress(AlreadyExists):
        hub.accounts.create(name, role, PASSWORD)
    return {cookie_name(hub.accounts.fingerprint, is_secure=False): hub.accounts.sessions.begin(name)}


def signed_in(hub: Services, name: str = "ana", role: Role = Role.ADMIN, **options: Any) -> TestClient:
    """Return a browser of somebody who is signed in; like all browsers it says which page asks."""
    return TestClient(
        create_app(hub), base_url=ADDRESS, cookies=cookie_of(hub, name, role), headers={"Origin": ADDRESS}, **options
    )


def stranger(hub: Services) -> TestClient:
    """Return a browser in which nobody is signed in."""
    return TestClient(
        create_app(hub), base_url=ADDRESS, headers={"Origin": ADDRESS, "Accept": "text/html"}, follow_redirects=False
    )
