"""Hubs: those that serve the fleet together, and which of them leads."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from milonga_hub.callers import caller
from milonga_hub.hubs.models import HubState
from milonga_hub.web.pages.page import render
from milonga_hub.web.services import HubServices


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/settings/hubs")
    def hubs(request: Request) -> HTMLResponse:
        standings = hub.hubs.standings()
        return render(
            request,
            "hubs.html",
            me=caller(),
            standings=standings,
            leading=any(each.state is HubState.LEADING for each in standings),
            notice=hub.hubs.notice,
            is_alone=not hub.hubs.id,
        )

    return pages
