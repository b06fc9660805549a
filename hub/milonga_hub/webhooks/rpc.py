"""WebhookService over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from milonga.v1 import alerts_pb2, webhooks_pb2_grpc
from milonga.v1 import webhooks_pb2 as pb

from milonga_hub.bridge import from_proto, to_proto
from milonga_hub.outbox import DeliveryState
from milonga_hub.webhooks.models import WebhookSpec
from milonga_hub.webhooks.service import WebhookService


class WebhookRpc(webhooks_pb2_grpc.WebhookServiceServicer):
    def __init__(self, webhooks: WebhookService) -> None:
        self._webhooks = webhooks

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: Any) -> pb.ListWebhooksResponse:
        return pb.ListWebhooksResponse(webhooks=[to_proto(one, pb.Webhook) for one in self._webhooks.list()])

    async def ApplyWebhook(self, request: pb.ApplyWebhookRequest, context: Any) -> pb.ApplyWebhookResponse:
        spec = from_proto(request, WebhookSpec)
        webhook, secret = await asyncio.to_thread(self._webhooks.apply, request.name, spec)
        return pb.ApplyWebhookResponse(webhook=to_proto(webhook, pb.Webhook), secret=secret)

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, context: Any) -> pb.DeleteWebhookResponse:
        await asyncio.to_thread(self._webhooks.delete, request.name)
        return pb.DeleteWebhookResponse()

    async def TestWebhook(self, request: pb.TestWebhookRequest, context: Any) -> pb.TestWebhookResponse:
        return pb.TestWebhookResponse(answer=await asyncio.to_thread(self._webhooks.test, request.name))

    async def RedeliverWebhook(self, request: pb.RedeliverWebhookRequest, context: Any) -> pb.RedeliverWebhookResponse:
        found = await asyncio.to_thread(self._webhooks.redeliver, request.name, request.delivery)
        return pb.RedeliverWebhookResponse(deliveries=[to_proto(one, pb.WebhookDelivery) for one in found])

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Any
    ) -> pb.ListWebhookDeliveriesResponse:
        state = None
        if request.state:
            state = DeliveryState(alerts_pb2.DeliveryState.Name(request.state).removeprefix("DELIVERY_STATE_"))
        found, token = self._webhooks.deliveries(request.webhook, state, request.page_size, request.page_token)
        return pb.ListWebhookDeliveriesResponse(
            deliveries=[to_proto(one, pb.WebhookDelivery) for one in found], next_page_token=token
        )
