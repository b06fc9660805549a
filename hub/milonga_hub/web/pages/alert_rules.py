"""Forms that add, change and remove rules of alerts."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from milonga_hub.alerts.builtin import BUILT_IN
from milonga_hub.alerts.models import RULE_FILE, AlertRuleSpec, AlertSeverity, AlertSignal, RuleView
from milonga_hub.alerts.rules_findings import THRESHOLDS
from milonga_hub.alerts.rules_forms import rule_answers, rule_of
from milonga_hub.errors import NotFound
from milonga_hub.web.pages.alert_forms import Filled, answered, given
from milonga_hub.web.pages.page import render
from milonga_hub.web.services import HubServices

_SHOWN_PROJECTS = 200
_HOME = "/alerts#rules"


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()
    definitions = hub.alerts.definitions

    @pages.get("/new/alert_rules")
    def new(request: Request) -> HTMLResponse:
        usual = AlertRuleSpec(watch=AlertSignal.TEMPERATURE)
        return _page(request, hub, Filled(rule_answers(usual), ticked=usual.channels))

    @pages.get("/alert_rules/{name}")
    def one(request: Request, name: str) -> HTMLResponse:
        found = _rule(hub, name)
        if found is None:
            raise NotFound(f"there is no alert rule {name!r}; see: milonga alerts rules")
        return _page(request, hub, Filled(rule_answers(found.spec), name, found.spec.channels, spec=found.spec))

    @pages.post("/alert_rules")
    async def apply(request: Request) -> Response:
        answers, ticked = await given(request)
        spec, wrong = rule_of(answers, ticked)
        read = Filled(answers, answers.get("changed", ""), ticked, wrong, spec)
        return await answered(
            read,
            [each.name for each in definitions.rules()],
            lambda spec, is_look: definitions.apply_rule(read.name, spec, is_look),
            lambda status: _page(request, hub, read, status),
            _HOME,
            "/alert_rules",
        )

    @pages.post("/alert_rules/{name}/delete")
    async def delete(name: str) -> RedirectResponse:
        await asyncio.to_thread(definitions.delete_rule, name)
        return RedirectResponse(_HOME, status_code=303)

    return pages


def _page(request: Request, hub: HubServices, read: Filled[AlertRuleSpec], status: int = 200) -> HTMLResponse:
    found = _rule(hub, read.changed)
    return render(
        request,
        "alert_rule.html",
        script="form",
        status=status,
        read=read,
        text=read.text(RULE_FILE, {}),
        thresholds={signal: THRESHOLDS[signal] for signal in AlertSignal if signal in THRESHOLDS},
        signals=[*AlertSignal],
        severities=[*AlertSeverity],
        channels=[each.name for each in hub.alerts.definitions.channels()],
        projects=hub.projects.list(_SHOWN_PROJECTS)[0],
        is_own=found is not None and not found.built_in,
        comes_with_hub=read.changed in BUILT_IN,
    )


def _rule(hub: HubServices, name: str) -> RuleView | None:
    return next((each for each in hub.alerts.definitions.rules() if each.name == name), None)
