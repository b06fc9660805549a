"""News for browsers: server-sent events of what changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from milonga_hub.events import Event, EventBus
from milonga_hub.web.views import shown

# Proxies close silent connections after a minute; this also finds browsers that are gone, and tells browsers that the line
# still works: live.js asks anew after three that did not come.
_KEEP_ALIVE_SECONDS = 15.0


def router(events: EventBus, stopping: asyncio.Event) -> APIRouter:
    """`stopping` is set when the server ends: streams would hold it up for ever."""
    api = APIRouter(tags=["events"])

    @api.get("/events", response_class=StreamingResponse)
    async def listen(
        topics: Annotated[str, Query(description="Prefixes, comma separated: devices/,projects/,rollouts/")] = "",
    ) -> StreamingResponse:
        """Send each change as a server-sent event; a slow listener gets the newest state of each thing.

        An event named `here` comes every 15 seconds without news: the line still works.
        """
        prefixes = [topic.strip() for topic in topics.split(",") if topic.strip()] or [""]
        return StreamingResponse(
            _stream(events, prefixes, stopping),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return api


async def _stream(events: EventBus, prefixes: list[str], stopping: asyncio.Event) -> AsyncIterator[str]:
    stopped = asyncio.create_task(stopping.wait())
    heard: asyncio.Task[Event] | None = None
    try:
        with events.listen(*prefixes) as news:
            # The first words tell the browser that it is connected, and when to come back after a loss.
            yield "retry: 2000\n: connected\n\n"
            while not stopping.is_set():
                heard = heard or asyncio.create_task(news.next())
                await asyncio.wait({heard, stopped}, timeout=_KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if heard.done():
                    event, heard = heard.result(), None
                    yield _message(event)
                elif not stopping.is_set():
                    yield "event: here\ndata: {}\n\n"
    finally:
        # A browser that leaves ends this at a yield or while it waits.
        for task in (stopped, heard):
            if task is not None:
                task.cancel()


def _message(event: Event) -> str:
    payload = shown(event.payload)
    data = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else None
    return f"data: {json.dumps({'topic': event.topic, 'payload': data})}\n\n"
