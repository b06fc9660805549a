"""Hubs over REST."""

from __future__ import annotations

import asyncio
from datetime import datetime

from fastapi import APIRouter

from milonga_hub.hubs.models import HubState, HubView
from milonga_hub.hubs.service import Hubs


class HubStanding(HubView):
    state: HubState
    # Whether it is the one that answers.
    is_this: bool
    # Of the one that leads, where that is known.
    leads_since: datetime | None


def router(hubs: Hubs) -> APIRouter:
    api = APIRouter(tags=["hubs"])

    @api.get("/hubs")
    async def list_hubs() -> list[HubStanding]:
        """List the hubs that serve this fleet together, and which of them leads."""
        found = await asyncio.to_thread(hubs.standings)
        fields = HubView.model_fields
        return [
            HubStanding(
                state=each.state,
                is_this=each.is_this,
                leads_since=each.leads_since,
                **{name: getattr(each.hub, name) for name in fields},
            )
            for each in found
        ]

    return api
