"""TelemetryService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from milonga.v1 import telemetry_pb2, telemetry_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.callers import seen_projects
from milonga_hub.errors import InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.service import TelemetryService

_STORED_AT_ONCE = 100


class TelemetryRpc(telemetry_pb2_grpc.TelemetryServiceServicer):
    def __init__(self, service: TelemetryService, events: EventBus) -> None:
        self._service = service
        self._events = events

    async def QueryTelemetry(
        self, request: telemetry_pb2.QueryTelemetryRequest, context: Any
    ) -> telemetry_pb2.QueryTelemetryResponse:
        since = request.since.ToDatetime(tzinfo=UTC) if request.HasField("since") else None
        windows, token = self._service.query(
            request.device, request.project, since, request.page_size, request.page_token, seen_projects()
        )
        return telemetry_pb2.QueryTelemetryResponse(
            windows=[to_proto(window, telemetry_pb2.TelemetryWindow) for window in windows], next_page_token=token
        )

    async def ListDriftEvents(
        self, request: telemetry_pb2.ListDriftEventsRequest, context: Any
    ) -> telemetry_pb2.ListDriftEventsResponse:
        events, token = self._service.drift_events(
            request.project, request.page_size, request.page_token, seen_projects()
        )
        return telemetry_pb2.ListDriftEventsResponse(
            drift_events=[to_proto(event, telemetry_pb2.DriftEvent) for event in events], next_page_token=token
        )

    async def EstimateAccuracy(
        self, request: telemetry_pb2.EstimateAccuracyRequest, context: Any
    ) -> telemetry_pb2.EstimateAccuracyResponse:
        version, estimate = self._service.demand_estimated_accuracy(request.project)
        return telemetry_pb2.EstimateAccuracyResponse(model_version=version, **asdict(estimate))

    async def GetRefusedTelemetry(
        self, request: telemetry_pb2.GetRefusedTelemetryRequest, context: Any
    ) -> telemetry_pb2.GetRefusedTelemetryResponse:
        if not request.device:
            raise InvalidInput("name the device")
        refused = to_proto(self._service.refusals.of(request.device), telemetry_pb2.RefusedTelemetry)
        return telemetry_pb2.GetRefusedTelemetryResponse(refused_telemetry=refused)

    async def WatchTelemetry(
        self, request: telemetry_pb2.WatchTelemetryRequest, context: Any
    ) -> AsyncIterator[telemetry_pb2.WatchTelemetryResponse]:
        """Send each window as it is stored, beginning with the newest that is there already, or with all since a time."""
        if not request.device:
            raise InvalidInput("name the device to watch")
        topic = f"telemetry/{request.device}"
        with self._events.listen(topic) as events:
            if request.HasField("since"):
                stored = self._stored(request.device, request.since.ToDatetime(tzinfo=UTC))
            else:
                stored, _ = self._service.query(request.device, page_size=1)
            last = 0
            for window in stored:
                last = window.id or 0
                yield _watched(window)
            async for event in events:
                # News says that there are windows, and may leave out some: it is state, not history.
                if event.topic == topic:
                    for window in self._stored(request.device, None, after=last):
                        last = window.id or 0
                        yield _watched(window)

    def _stored(self, device: str, since: datetime | None, after: int = 0) -> list[TelemetryWindow]:
        """Return windows in the order in which they came: that started since a time, that came after another."""
        found: list[TelemetryWindow] = []
        token = ""
        while True:
            windows, token = self._service.query(device, since=since, page_size=_STORED_AT_ONCE, page_token=token)
            found += (window for window in windows if (window.id or 0) > after)
            if not token or (windows[-1].id or 0) <= after:
                return found[::-1]


def _watched(window: Any) -> telemetry_pb2.WatchTelemetryResponse:
    return telemetry_pb2.WatchTelemetryResponse(window=to_proto(window, telemetry_pb2.TelemetryWindow))
