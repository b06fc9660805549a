"""Where an alert leads: the pages on which a person sees what is wrong, and does what helps."""

from __future__ import annotations

from urllib.parse import quote

from milonga_hub.alerts.models import AlertSignal, AlertView
from milonga_hub.web.language import gettext as _


def ways(alert: AlertView) -> list[tuple[str, str]]:
    """Return (address, words) of pages, the one to begin with first."""
    kind, _slash, rest = alert.subject.partition("/")
    subject, project = quote(rest, safe=""), quote(alert.project, safe="")
    if kind == "devices":
        found = [(f"/devices/{subject}", _("the device"))]
        if alert.signal is not AlertSignal.DEVICE_OFFLINE:
            found.insert(0, (f"/monitoring?device={subject}", _("what it did")))
        if alert.signal is AlertSignal.DRIFT and project:
            found += [
                (f"/labelling/{project}", _("label new pictures")),
                (f"/projects/{project}", _("start a run")),
            ]
        return found
    if kind == "rollouts":
        return [(f"/rollouts/{subject}", _("the rollout"))]
    if alert.signal is AlertSignal.RUN_FAILED:
        return [
            (
                f"/runs/{project}/{quote(alert.subject.split('/')[-1], safe='')}",
                _("the run, its log and a button to go on"),
            )
        ]
    return [(f"/projects/{project}", _("the project"))] if project else []
