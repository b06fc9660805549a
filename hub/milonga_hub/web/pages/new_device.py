"""Add a device: a command with a fresh token, and the device as soon as it has joined."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse

from milonga_hub.db import utc_now
from milonga_hub.devices.models import JoinToken
from milonga_hub.devices.rules import labels_of_text
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.install.reach import address_for_others
from milonga_hub.install.web import host_of
from milonga_hub.web.charts.qr import qr
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _
from milonga_hub.web.pages.page import Part, everything, render
from milonga_hub.web.services import HubServices

_HOUR_SECONDS = 60 * 60
LIFETIMES = (
    (_HOUR_SECONDS, N_("an hour")),
    (24 * _HOUR_SECONDS, N_("a day")),
    (7 * 24 * _HOUR_SECONDS, N_("a week")),
    (30 * 24 * _HOUR_SECONDS, N_("30 days")),
)
_MOST_USES = 10_000


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/new/devices")
    async def ask(request: Request) -> HTMLResponse:
        return _form(request, hub)

    @pages.post("/new/devices")
    async def make(
        request: Request,
        uses: Annotated[str, Form()] = "1",
        lifetime_seconds: Annotated[int, Form()] = 24 * _HOUR_SECONDS,
        labels: Annotated[str, Form()] = "",
        request_id: Annotated[str, Form()] = "",
    ) -> HTMLResponse:
        """Make a token and show its command; loading the answer again makes no second one."""
        given = {"uses": uses, "lifetime_seconds": str(lifetime_seconds), "labels": labels}
        if not (uses.isascii() and uses.isdigit() and 1 <= int(uses[:9]) <= _MOST_USES):
            wrong = _("The number of devices must be 1 to %(most)s.", most=f"{_MOST_USES:,}")
            return _form(request, hub, given, wrong, status=400)
        try:
            made = hub.devices.create_join_token(labels_of_text(labels), int(uses), lifetime_seconds, request_id)
        except InvalidInput as error:
            return _form(request, hub, given, str(error), status=400)
        return _command(request, hub, *made)

    @pages.get("/new/devices/{id}")
    async def joined(request: Request, id: str) -> HTMLResponse:
        """Show what became of a token; its secret is never shown a second time."""
        tokens = everything(lambda token: hub.devices.list_join_tokens(page_token=token))
        token = next((each for each in tokens if each.id == id), None)
        if token is None:
            raise NotFound(f"there is no join token {id}; make one under /new/devices")
        return render(request, "joined.html", live="devices/", **_state(hub, token))

    return pages


def _form(
    request: Request, hub: HubServices, given: Mapping[str, str] | None = None, wrong: str = "", status: int = 200
) -> HTMLResponse:
    asking, reachable = _installing(request, hub, f"--fingerprint {hub.devices.authority.fingerprint}")
    return render(
        request,
        "new_device.html",
        script="form",
        status=status,
        asking=asking,
        reachable=reachable,
        given=given or {"uses": "1", "lifetime_seconds": str(24 * _HOUR_SECONDS), "labels": ""},
        wrong=wrong,
        lifetimes=LIFETIMES,
        request_id=secrets.token_hex(16),
    )


def _command(request: Request, hub: HubServices, token: JoinToken, secret: str) -> HTMLResponse:
    command, reachable = _installing(request, hub, f"--token {secret}")
    return render(
        request,
        "device_command.html",
        live="devices/",
        live_part=Part("joined", f"/new/devices/{token.id}"),
        script="form",
        command=command,
        code=qr(command, _("The command as a QR code")),
        reachable=reachable,
        **_state(hub, token),
    )


def _installing(request: Request, hub: HubServices, options: str) -> tuple[str, bool]:
    """Return the command that installs the agent on a device, and whether other machines reach its address."""
    address, reachable = address_for_others(host_of(request), hub.settings.host)
    return f"curl -fsSL {request.url.scheme}://{address}/install.sh | sudo sh -s -- {options}", reachable


def _state(hub: HubServices, token: JoinToken) -> dict[str, Any]:
    devices = [each for each in hub.devices.outlines(with_revoked=False) if each.enrolled_at >= token.created_at]
    return {
        "token": token,
        "has_pictures": bool(hub.datasets.list(page_size=1)[0]),
        "expired": token.expires_at <= utc_now(),
        "devices": sorted(devices, key=lambda each: each.enrolled_at, reverse=True),
    }
