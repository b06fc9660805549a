"""What needs a person: alerts that stand, with buttons to acknowledge and silence; history, rules and channels."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from milonga_hub.alerts.models import AlertState
from milonga_hub.alerts.rules_findings import threshold_of
from milonga_hub.callers import signature
from milonga_hub.db import utc_now
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

_SHOWN_RESOLVED = 50
_LONGEST_HOURS = 24 * 365


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/alerts")
    async def all_of_them(request: Request) -> HTMLResponse:
        silences, _ = hub.alerts.silences(page_size=100)
        return render(
            request,
            "alerts.html",
            live="alerts/",
            standing=everything(lambda token: hub.alerts.list(AlertState.OPEN, page_token=token), at_most=500),
            resolved=hub.alerts.list(AlertState.RESOLVED, page_size=_SHOWN_RESOLVED)[0],
            silences=[silence for silence in silences if silence.until > utc_now()],
            rules=[(rule, threshold_of(rule.spec)) for rule in hub.alerts.definitions.rules()],
            channels=hub.alerts.definitions.channels(),
            given_up=hub.alerts.deliveries.given_up(),
        )

    @pages.get("/alerts/{id}")
    async def one(request: Request, id: str) -> HTMLResponse:
        alert = hub.alerts.get(id)
        return render(
            request,
            "alert.html",
            live=f"alerts/{alert.id}",
            alert=alert,
            messages=hub.alerts.messages(id),
            address=_address(alert.subject),
        )

    @pages.post("/alerts/{id}/acknowledge")
    async def acknowledge(id: str, note: str = Form("")) -> RedirectResponse:
        await asyncio.to_thread(hub.alerts.acknowledge, id, signature(""), note)
        return RedirectResponse(f"/alerts/{quote(id, safe='')}", status_code=303)

    @pages.post("/alerts/{id}/silence")
    async def silence(
        id: str, reason: str = Form(""), hours: float = Form(2.0, gt=0, le=_LONGEST_HOURS)
    ) -> RedirectResponse:
        alert = hub.alerts.get(id)
        until = utc_now() + timedelta(hours=hours)
        await asyncio.to_thread(hub.alerts.silence, alert.rule, alert.subject, until, reason, signature(""))
        return RedirectResponse(f"/alerts/{quote(id, safe='')}", status_code=303)

    @pages.post("/alert_silences/{id}/end")
    async def end_silence(id: str) -> RedirectResponse:
        await asyncio.to_thread(hub.alerts.end_silence, id)
        return RedirectResponse("/alerts", status_code=303)

    return pages


def _address(subject: str) -> str:
    """Return the page of what the alert is about."""
    kind, _, rest = subject.partition("/")
    if kind == "projects":
        project, _, number = rest.partition("/runs/")
        return f"/runs/{quote(project, safe='')}/{quote(number, safe='')}"
    return f"/{kind}/{quote(rest, safe='')}"
