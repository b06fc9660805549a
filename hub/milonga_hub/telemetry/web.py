"""Telemetry and drift over REST."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel

from milonga_hub.callers import need_project, seen_projects
from milonga_hub.telemetry.models import DriftEvent, TelemetryWindowView
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.web.views import PageSize, PageToken, view, views


class WindowPage(BaseModel):
    windows: list[TelemetryWindowView]
    next_page_token: str


class DriftEventPage(BaseModel):
    drift_events: list[DriftEvent]
    next_page_token: str


class EstimatedAccuracy(BaseModel):
    model_version: str
    accuracy: float
    low: float
    high: float
    answer_count: int
    validated: float


class RefusedTelemetry(BaseModel):
    count: int
    reason: str
    refused_at: datetime | None


def router(telemetry: TelemetryService) -> APIRouter:
    api = APIRouter(tags=["telemetry"])

    @api.get("/telemetry")
    async def query_telemetry(
        device: str = "",
        project: str = "",
        since: datetime | None = None,
        page_size: PageSize = 0,
        page_token: PageToken = "",
    ) -> WindowPage:
        """List windows, the last received first."""
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        found, token = telemetry.query(device, project, since, page_size, page_token, seen_projects())
        return WindowPage(windows=views(TelemetryWindowView, found), next_page_token=token)

    @api.get("/drift_events")
    async def list_drift_events(
        project: str = "", page_size: PageSize = 0, page_token: PageToken = ""
    ) -> DriftEventPage:
        """List drift events, the newest first."""
        found, token = telemetry.drift_events(project, page_size, page_token, seen_projects())
        return DriftEventPage(drift_events=found, next_page_token=token)

    @api.get("/telemetry/accuracy")
    async def estimate_accuracy(project: str) -> EstimatedAccuracy:
        """Tell what share of a project's answers is right, without labels."""
        need_project(project)
        version, estimate = telemetry.demand_estimated_accuracy(project)
        return EstimatedAccuracy(model_version=version, **asdict(estimate))

    @api.get("/telemetry/refused")
    async def refused_telemetry(device: str) -> RefusedTelemetry:
        """Tell how many messages of a device were not taken since the hub started, and why the last of them."""
        return view(RefusedTelemetry, telemetry.refusals.of(device))

    return api
