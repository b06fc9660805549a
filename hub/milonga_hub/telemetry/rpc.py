"""TelemetryService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC
from typing import Any

from milonga.v1 import telemetry_pb2, telemetry_pb2_grpc

from milonga_hub.bridge import to_proto
from milonga_hub.errors import InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.telemetry.service import TelemetryService


class TelemetryRpc(telemetry_pb2_grpc.TelemetryServiceServicer):
    def __init__(self, service: TelemetryService, events: EventBus) -> None:
        self._service = service
        self._events = events

    async def QueryTelemetry(
        self, request: telemetry_pb2.QueryTelemetryRequest, context: Any
    ) -> telemetry_pb2.QueryTelemetryResponse:
        since = request.since.ToDatetime(tzinfo=UTC) if request.HasField("since") else None
        windows, token = self._service.query(
            request.device, request.project, since, request.page_size, request.page_token
        )
        return telemetry_pb2.QueryTelemetryResponse(
            windows=[to_proto(window, telemetry_pb2.TelemetryWindow) for window in windows], next_page_token=token
        )

    async def ListDriftEvents(
        self, request: telemetry_pb2.ListDriftEventsRequest, context: Any
    ) -> telemetry_pb2.ListDriftEventsResponse:
        events, token = self._service.drift_events(request.project, request.page_size, request.page_token)
        return telemetry_pb2.ListDriftEventsResponse(
            drift_events=[to_proto(event, telemetry_pb2.DriftEvent) for event in events], next_page_token=token
        )

    async def EstimateAccuracy(
        self, request: telemetry_pb2.EstimateAccuracyRequest, context: Any
    ) -> telemetry_pb2.EstimateAccuracyResponse:
        version, estimate = self._service.demand_estimated_accuracy(request.project)
        return telemetry_pb2.EstimateAccuracyResponse(model_version=version, **asdict(estimate))

    async def WatchTelemetry(
        self, request: telemetry_pb2.WatchTelemetryRequest, context: Any
    ) -> AsyncIterator[telemetry_pb2.WatchTelemetryResponse]:
        """Send each window as it is stored, beginning with the newest one that is there already."""
        if not request.device:
            raise InvalidInput("name the device to watch")
        topic = f"telemetry/{request.device}"
        with self._events.listen(topic) as events:
            windows, _ = self._service.query(request.device, page_size=1)
            for window in windows:
                yield _watched(window)
            last = windows[0].id if windows else None
            async for event in events:
                if event.topic == topic and event.payload.id != last:
                    yield _watched(event.payload)


def _watched(window: Any) -> telemetry_pb2.WatchTelemetryResponse:
    return telemetry_pb2.WatchTelemetryResponse(window=to_proto(window, telemetry_pb2.TelemetryWindow))
