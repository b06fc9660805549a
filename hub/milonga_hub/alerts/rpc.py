"""AlertService over gRPC."""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import Any

from milonga.v1 import alerts_pb2 as pb
from milonga.v1 import alerts_pb2_grpc

from milonga_hub.alerts.models import AlertChannelSpec, AlertRuleSpec, AlertState
from milonga_hub.alerts.service import AlertService
from milonga_hub.bridge import from_field, to_proto
from milonga_hub.callers import leave_unrecorded, seen_projects, signature
from milonga_hub.errors import InvalidInput


class AlertRpc(alerts_pb2_grpc.AlertServiceServicer):
    def __init__(self, alerts: AlertService) -> None:
        self._alerts = alerts

    async def ListAlerts(self, request: pb.ListAlertsRequest, context: Any) -> pb.ListAlertsResponse:
        state = AlertState(pb.AlertState.Name(request.state).removeprefix("ALERT_STATE_")) if request.state else None
        found, token = self._alerts.list(
            state, request.project, request.subject, request.page_size, request.page_token, seen_projects()
        )
        return pb.ListAlertsResponse(alerts=[to_proto(one, pb.Alert) for one in found], next_page_token=token)

    async def GetAlert(self, request: pb.GetAlertRequest, context: Any) -> pb.GetAlertResponse:
        alert = self._alerts.get(request.id)
        deliveries = [to_proto(one, pb.AlertDelivery) for one in self._alerts.messages(request.id)]
        return pb.GetAlertResponse(alert=to_proto(alert, pb.Alert), deliveries=deliveries)

    async def AcknowledgeAlert(self, request: pb.AcknowledgeAlertRequest, context: Any) -> pb.AcknowledgeAlertResponse:
        alert = await asyncio.to_thread(self._alerts.acknowledge, request.id, signature(request.by), request.note)
        return pb.AcknowledgeAlertResponse(alert=to_proto(alert, pb.Alert))

    async def CreateSilence(self, request: pb.CreateSilenceRequest, context: Any) -> pb.CreateSilenceResponse:
        if not request.HasField("until"):
            raise InvalidInput("until must be given: a silence ends by itself")
        silence = await asyncio.to_thread(
            self._alerts.silence,
            request.rule,
            request.subject,
            request.until.ToDatetime(tzinfo=UTC),
            request.reason,
            signature(request.created_by),
            request.request_id,
        )
        return pb.CreateSilenceResponse(silence=to_proto(silence, pb.Silence))

    async def ListSilences(self, request: pb.ListSilencesRequest, context: Any) -> pb.ListSilencesResponse:
        found, token = self._alerts.silences(request.page_size, request.page_token)
        return pb.ListSilencesResponse(silences=[to_proto(one, pb.Silence) for one in found], next_page_token=token)

    async def EndSilence(self, request: pb.EndSilenceRequest, context: Any) -> pb.EndSilenceResponse:
        silence = await asyncio.to_thread(self._alerts.end_silence, request.id)
        return pb.EndSilenceResponse(silence=to_proto(silence, pb.Silence))

    async def ListAlertRules(self, request: pb.ListAlertRulesRequest, context: Any) -> pb.ListAlertRulesResponse:
        return pb.ListAlertRulesResponse(
            rules=[to_proto(one, pb.AlertRule) for one in self._alerts.definitions.rules()]
        )

    async def ApplyAlertRule(self, request: pb.ApplyAlertRuleRequest, context: Any) -> pb.ApplyAlertRuleResponse:
        spec = from_field(request, "spec", AlertRuleSpec)
        leave_unrecorded(request.dry_run)
        rule, changes = self._alerts.definitions.apply_rule(request.name, spec, request.dry_run)
        return pb.ApplyAlertRuleResponse(rule=to_proto(rule, pb.AlertRule), changes=changes)

    async def DeleteAlertRule(self, request: pb.DeleteAlertRuleRequest, context: Any) -> pb.DeleteAlertRuleResponse:
        self._alerts.definitions.delete_rule(request.name)
        return pb.DeleteAlertRuleResponse()

    async def ListAlertChannels(
        self, request: pb.ListAlertChannelsRequest, context: Any
    ) -> pb.ListAlertChannelsResponse:
        found = self._alerts.definitions.channels()
        return pb.ListAlertChannelsResponse(channels=[to_proto(one, pb.AlertChannel) for one in found])

    async def ApplyAlertChannel(
        self, request: pb.ApplyAlertChannelRequest, context: Any
    ) -> pb.ApplyAlertChannelResponse:
        spec = from_field(request, "spec", AlertChannelSpec)
        leave_unrecorded(request.dry_run)
        channel, changes = self._alerts.definitions.apply_channel(request.name, spec, request.dry_run)
        return pb.ApplyAlertChannelResponse(channel=to_proto(channel, pb.AlertChannel), changes=changes)

    async def DeleteAlertChannel(
        self, request: pb.DeleteAlertChannelRequest, context: Any
    ) -> pb.DeleteAlertChannelResponse:
        self._alerts.definitions.delete_channel(request.name)
        return pb.DeleteAlertChannelResponse()

    async def TestAlertChannel(self, request: pb.TestAlertChannelRequest, context: Any) -> pb.TestAlertChannelResponse:
        answer = await asyncio.to_thread(self._alerts.deliveries.send_test, request.name)
        return pb.TestAlertChannelResponse(answer=answer)
