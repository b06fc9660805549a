"""Webhooks over REST."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel

from milonga_hub.outbox import DeliveryState
from milonga_hub.web.views import PageSize, PageToken, view, views
from milonga_hub.webhooks.models import WebhookDeliveryView, WebhookSpec, WebhookView
from milonga_hub.webhooks.service import WebhookService


class AppliedWebhook(BaseModel):
    webhook: WebhookView
    # Where it is a new one; shown only now.
    secret: str


class WebhookAnswer(BaseModel):
    answer: str


class Redelivery(BaseModel):
    # Of one message; empty for all that never arrived.
    delivery: str = ""


class WebhookDeliveryPage(BaseModel):
    deliveries: list[WebhookDeliveryView]
    next_page_token: str


def router(webhooks: WebhookService) -> APIRouter:
    api = APIRouter(tags=["webhooks"])

    @api.get("/webhooks")
    async def list_webhooks() -> list[WebhookView]:
        """List who is told of what, without secrets."""
        return views(WebhookView, webhooks.list())

    @api.post("/webhooks/{webhook}:apply")
    async def apply_webhook(webhook: str, body: WebhookSpec) -> AppliedWebhook:
        """Create or change a webhook; a secret that is left out stays, or is made anew where the address changes."""
        applied, secret = await asyncio.to_thread(webhooks.apply, webhook, body)
        return AppliedWebhook(webhook=view(WebhookView, applied), secret=secret)

    @api.delete("/webhooks/{webhook}", status_code=204)
    async def delete_webhook(webhook: str) -> None:
        await asyncio.to_thread(webhooks.delete, webhook)

    @api.post("/webhooks/{webhook}:test")
    async def test_webhook(webhook: str) -> WebhookAnswer:
        """Send a test event now; an error says why it did not arrive."""
        return WebhookAnswer(answer=await asyncio.to_thread(webhooks.test, webhook))

    @api.post("/webhooks/{webhook}:redeliver")
    async def redeliver_webhook(webhook: str, body: Redelivery | None = None) -> list[WebhookDeliveryView]:
        """Send once more what was given up; return what is sent again."""
        found = await asyncio.to_thread(webhooks.redeliver, webhook, body.delivery if body else "")
        return views(WebhookDeliveryView, found)

    @api.get("/webhook_deliveries")
    async def list_webhook_deliveries(
        webhook: str = "", state: DeliveryState | None = None, page_size: PageSize = 0, page_token: PageToken = ""
    ) -> WebhookDeliveryPage:
        """List what was sent or is to be sent, the newest first."""
        found, token = webhooks.deliveries(webhook, state, page_size, page_token)
        return WebhookDeliveryPage(deliveries=views(WebhookDeliveryView, found), next_page_token=token)

    return api
