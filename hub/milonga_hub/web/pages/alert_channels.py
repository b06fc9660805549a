"""Forms that add, change, try and remove the channels that alerts go to: webhooks and e-mail."""

from __future__ import annotations

import asyncio
import secrets

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from milonga_hub.alerts.models import CHANNEL_FILE, AlertChannelSpec, MailSecurity
from milonga_hub.alerts.rules_forms import EMAIL, WEBHOOK, channel_answers, channel_of
from milonga_hub.callers import tell_problem
from milonga_hub.errors import MilongaError, NotFound
from milonga_hub.web.pages.alert_forms import Filled, answered, given
from milonga_hub.web.pages.page import render
from milonga_hub.web.services import HubServices

_SECRET_BYTES = 32
_USUAL = {"give_up_after_seconds": "86400", "port": "587", "security": MailSecurity.STARTTLS.value}
# Files have secrets only where people write them in.
_HIDDEN = {WEBHOOK: {"secret"}, EMAIL: {"password"}}
_HOME = "/alerts#channels"


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()
    definitions = hub.alerts.definitions

    @pages.get("/new/alert_channels")
    def new(request: Request, kind: str = EMAIL) -> HTMLResponse:
        return _page(request, hub, Filled(_USUAL), WEBHOOK if kind == WEBHOOK else EMAIL)

    @pages.get("/alert_channels/{name}")
    def one(request: Request, name: str) -> HTMLResponse:
        return _known(request, hub, name)

    @pages.post("/alert_channels")
    async def apply(request: Request) -> Response:
        """Apply what the form says; a new webhook without a secret gets one, which is shown once."""
        answers, _ = await given(request)
        kind = WEBHOOK if answers.get("kind") == WEBHOOK else EMAIL
        wants_secret = kind == WEBHOOK and not answers.get("changed") and not answers.get("secret", "").strip()
        made = secrets.token_urlsafe(_SECRET_BYTES) if wants_secret else ""
        spec, wrong = channel_of(kind, answers | {"secret": made} if made else answers)
        read = Filled(answers, answers.get("changed", ""), wrong=wrong, spec=spec)
        answer = await answered(
            read,
            [each.name for each in definitions.channels()],
            lambda spec, is_look: definitions.apply_channel(read.name, spec, is_look),
            lambda status: _page(request, hub, read, kind, status),
            _HOME,
            "/alert_channels",
        )
        if made and isinstance(answer, RedirectResponse):
            return await asyncio.to_thread(_known, request, hub, read.name, made=made)
        return answer

    @pages.post("/alert_channels/{name}/test")
    async def test(request: Request, name: str) -> Response:
        """Send a test message now, and say what came of it."""
        try:
            answer = await asyncio.to_thread(hub.alerts.deliveries.send_test, name)
        except NotFound:
            raise
        except MilongaError as error:
            tell_problem(f"{type(error).__name__}: {error}")
            return await asyncio.to_thread(_known, request, hub, name, wrong=str(error))
        return await asyncio.to_thread(_known, request, hub, name, done=answer)

    @pages.post("/alert_channels/{name}/delete")
    async def delete(name: str) -> RedirectResponse:
        await asyncio.to_thread(definitions.delete_channel, name)
        return RedirectResponse(_HOME, status_code=303)

    return pages


def _known(
    request: Request, hub: HubServices, name: str, made: str = "", done: str = "", wrong: str = ""
) -> HTMLResponse:
    found = next((each for each in hub.alerts.definitions.channels() if each.name == name), None)
    if found is None:
        raise NotFound(f"there is no alert channel {name!r}; see: milonga alerts channels")
    read = Filled(channel_answers(found.spec), name, spec=found.spec)
    kind = WEBHOOK if found.spec.webhook is not None else EMAIL
    return _page(request, hub, read, kind, 400 if wrong else 200, made=made, done=done, failed=wrong)


def _page(
    request: Request,
    hub: HubServices,
    read: Filled[AlertChannelSpec],
    kind: str,
    status: int = 200,
    made: str = "",
    done: str = "",
    failed: str = "",
) -> HTMLResponse:
    """Return the page; `made` is a secret that the hub has just made, `done` or `failed` what came of a test."""
    definitions = hub.alerts.definitions
    known = next((each for each in definitions.channels() if each.name == read.changed), None)
    return render(
        request,
        "alert_channel.html",
        script="form",
        status=status,
        read=read,
        kind=kind,
        text=read.text(CHANNEL_FILE, _HIDDEN),
        securities=[*MailSecurity],
        has_secret=known is not None and known.has_secret,
        made=made,
        done=done,
        failed=failed,
        users=[each.name for each in definitions.rules() if read.changed in each.spec.channels],
    )
