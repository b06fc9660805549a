"""Alerts over REST."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel

from milonga_hub.alerts.models import (
    AlertChannelSpec,
    AlertDeliveryView,
    AlertRuleSpec,
    AlertState,
    AlertView,
    ChannelView,
    RuleView,
    Silence,
)
from milonga_hub.alerts.service import AlertService
from milonga_hub.callers import leave_unrecorded, seen_projects, signature
from milonga_hub.web.views import PageSize, PageToken, view, views


class AlertPage(BaseModel):
    alerts: list[AlertView]
    next_page_token: str


class AlertWithMessages(BaseModel):
    alert: AlertView
    deliveries: list[AlertDeliveryView]


class Acknowledgement(BaseModel):
    # Who is signed in, unless the hub's local key is used.
    by: str = ""
    note: str = ""


class NewSilence(BaseModel):
    # Empty: all rules; all subjects.
    rule: str = ""
    subject: str = ""
    until: datetime
    reason: str
    created_by: str = ""
    request_id: str = ""


class SilencePage(BaseModel):
    silences: list[Silence]
    next_page_token: str


class RuleApplication(BaseModel):
    spec: AlertRuleSpec
    dry_run: bool = False


class AppliedRule(BaseModel):
    rule: RuleView
    changes: list[str]


class ChannelApplication(BaseModel):
    spec: AlertChannelSpec
    dry_run: bool = False


class AppliedChannel(BaseModel):
    channel: ChannelView
    changes: list[str]


class Answer(BaseModel):
    answer: str


def router(alerts: AlertService) -> APIRouter:
    api = APIRouter(tags=["alerts"])
    _add_alerts(api, alerts)
    _add_definitions(api, alerts)
    return api


def _add_alerts(api: APIRouter, alerts: AlertService) -> None:
    @api.get("/alerts")
    async def list_alerts(
        state: AlertState | None = None,
        project: str = "",
        subject: str = "",
        page_size: PageSize = 0,
        page_token: PageToken = "",
    ) -> AlertPage:
        """List alerts, the newest first."""
        found, token = alerts.list(state, project, subject, page_size, page_token, seen_projects())
        return AlertPage(alerts=views(AlertView, found), next_page_token=token)

    @api.get("/alerts/{alert}")
    async def get_alert(alert: str) -> AlertWithMessages:
        """Return the alert and what was sent about it."""
        found = view(AlertView, alerts.get(alert))
        return AlertWithMessages(alert=found, deliveries=views(AlertDeliveryView, alerts.messages(alert)))

    @api.post("/alerts/{alert}:acknowledge")
    async def acknowledge_alert(alert: str, body: Acknowledgement) -> AlertView:
        """Note that somebody looks after it: nothing more is sent until it has resolved."""
        return view(AlertView, await asyncio.to_thread(alerts.acknowledge, alert, signature(body.by), body.note))

    @api.get("/alert_silences")
    async def list_silences(page_size: PageSize = 0, page_token: PageToken = "") -> SilencePage:
        """List silences, the newest first, those that have ended too."""
        found, token = alerts.silences(page_size, page_token)
        return SilencePage(silences=found, next_page_token=token)

    @api.post("/alert_silences", status_code=201)
    async def create_silence(body: NewSilence) -> Silence:
        """Send nothing about these alerts for a time; they open and resolve all the same."""
        until = body.until if body.until.tzinfo is not None else body.until.replace(tzinfo=UTC)
        return await asyncio.to_thread(
            alerts.silence, body.rule, body.subject, until, body.reason, signature(body.created_by), body.request_id
        )

    @api.post("/alert_silences/{silence}:end")
    async def end_silence(silence: str) -> Silence:
        return await asyncio.to_thread(alerts.end_silence, silence)


def _add_definitions(api: APIRouter, alerts: AlertService) -> None:
    @api.get("/alert_rules")
    async def list_alert_rules() -> list[RuleView]:
        """List all rules, those that the hub comes with too."""
        return alerts.definitions.rules()

    @api.post("/alert_rules/{rule}:apply")
    async def apply_alert_rule(rule: str, body: RuleApplication) -> AppliedRule:
        leave_unrecorded(body.dry_run)
        applied, changes = alerts.definitions.apply_rule(rule, body.spec, body.dry_run)
        return AppliedRule(rule=applied, changes=changes)

    @api.delete("/alert_rules/{rule}", status_code=204)
    async def delete_alert_rule(rule: str) -> None:
        """Forget a rule; one that replaced a rule of the hub gives way to that again."""
        alerts.definitions.delete_rule(rule)

    @api.get("/alert_channels")
    async def list_alert_channels() -> list[ChannelView]:
        """List channels, without their secrets."""
        return alerts.definitions.channels()

    @api.post("/alert_channels/{channel}:apply")
    async def apply_alert_channel(channel: str, body: ChannelApplication) -> AppliedChannel:
        """Create or change a channel; a secret that is left out stays as it is."""
        leave_unrecorded(body.dry_run)
        applied, changes = alerts.definitions.apply_channel(channel, body.spec, body.dry_run)
        return AppliedChannel(channel=applied, changes=changes)

    @api.delete("/alert_channels/{channel}", status_code=204)
    async def delete_alert_channel(channel: str) -> None:
        alerts.definitions.delete_channel(channel)

    @api.post("/alert_channels/{channel}:test")
    async def test_alert_channel(channel: str) -> Answer:
        """Send a test message now; an error says why it did not arrive."""
        return Answer(answer=await asyncio.to_thread(alerts.deliveries.send_test, channel))
