"""Settings, webhooks: who is told of what happens, what came of it, and a test of each."""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from milonga_hub.callers import caller, tell_problem, tell_resource
from milonga_hub.errors import MilongaError
from milonga_hub.outbox import DeliveryState
from milonga_hub.web.language import N_, gettext
from milonga_hub.web.pages.page import render
from milonga_hub.web.services import HubServices
from milonga_hub.webhooks.models import EventKind, WebhookSpec

_SHOWN = 50
_SHOWN_PROJECTS = 200
KINDS = {
    EventKind.RUN_FINISHED: N_("a run has ended"),
    EventKind.ROLLOUT_FINISHED: N_("a rollout has succeeded or was aborted"),
    EventKind.ROLLOUT_PAUSED: N_("a rollout is paused"),
    EventKind.BUILD_VERIFIED: N_("a build is verified"),
    EventKind.BUILD_REJECTED: N_("a build is rejected"),
    EventKind.DEVICE_ENROLLED: N_("a device has joined"),
    EventKind.DEVICE_SILENT: N_("a device is silent"),
    EventKind.DATASET_LABELLED: N_("new labels are part of a data set"),
    EventKind.DATASET_IMPORTED: N_("pictures were imported"),
    EventKind.ALERT_OPENED: N_("an alert has opened"),
    EventKind.ALERT_RESOLVED: N_("an alert has resolved"),
}


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/settings/webhooks")
    async def webhooks(request: Request, webhook: str = "", page_token: str = "") -> HTMLResponse:
        return _page(request, hub, webhook=webhook.strip(), page_token=page_token)

    @pages.post("/settings/webhooks")
    async def apply(
        request: Request,
        name: Annotated[str, Form()] = "",
        url: Annotated[str, Form()] = "",
        event: Annotated[list[str], Form()] = [],  # noqa: B006
        project: Annotated[str, Form()] = "",
    ) -> Response:
        try:
            spec = WebhookSpec.model_validate({"url": url.strip(), "events": event, "project": project})
            # The form's address is that of all of its kind.
            tell_resource(f"/settings/webhooks/{name.strip()}")
            _, secret = await asyncio.to_thread(hub.webhooks.apply, name.strip(), spec)
        except ValidationError:
            return _page(request, hub, wrong=gettext("Write an address such as https://host/path."), status=400)
        except MilongaError as error:
            return _page(request, hub, wrong=_told(error), status=400)
        return _page(request, hub, made=secret, made_for=name.strip())

    @pages.post("/settings/webhooks/{name}/test")
    async def test(request: Request, name: str) -> Response:
        try:
            answer = await asyncio.to_thread(hub.webhooks.test, name)
        except MilongaError as error:
            return _page(request, hub, wrong=_told(error), status=400)
        said = gettext("%(name)s took the test event: %(answer)s.", name=name, answer=answer)
        return _page(request, hub, done=said)

    @pages.post("/settings/webhooks/{name}/redeliver")
    async def redeliver(request: Request, name: str, delivery: Annotated[str, Form()] = "") -> Response:
        """Send again, and lead to what was sent, which shows what comes of it."""
        try:
            await asyncio.to_thread(hub.webhooks.redeliver, name, delivery)
        except MilongaError as error:
            return _page(request, hub, wrong=_told(error), webhook=name, status=400)
        return RedirectResponse(f"/settings/webhooks?webhook={quote(name, safe='')}#deliveries", 303)

    @pages.post("/settings/webhooks/{name}/delete")
    async def delete(request: Request, name: str) -> Response:
        try:
            await asyncio.to_thread(hub.webhooks.delete, name)
        except MilongaError as error:
            return _page(request, hub, wrong=_told(error), status=400)
        return RedirectResponse("/settings/webhooks", 303)

    return pages


def _page(
    request: Request,
    hub: HubServices,
    wrong: str = "",
    done: str = "",
    made: str = "",
    made_for: str = "",
    webhook: str = "",
    page_token: str = "",
    status: int = 200,
) -> HTMLResponse:
    """Return the page; `made` is the secret of a webhook that was just made."""
    deliveries, following = hub.webhooks.deliveries(webhook, None, _SHOWN, page_token)
    webhooks = hub.webhooks.list()
    return render(
        request,
        "webhooks.html",
        status=status,
        script="form",
        me=caller(),
        webhooks=webhooks,
        names={each.name for each in webhooks},
        lost=hub.webhooks.deliveries(webhook, DeliveryState.GIVEN_UP)[0] if webhook else [],
        kinds=KINDS,
        projects=hub.projects.list(_SHOWN_PROJECTS)[0],
        deliveries=deliveries,
        following=following,
        is_first=not page_token,
        wanted=webhook,
        wrong=wrong,
        done=done,
        made=made,
        made_for=made_for,
    )


def _told(error: MilongaError) -> str:
    """Return the error for its page, and tell the audit log of it."""
    tell_problem(f"{type(error).__name__}: {error}")
    return str(error)
