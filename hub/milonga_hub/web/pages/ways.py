"""Where an alert leads: the pages on which a person sees what is wrong, and does what helps."""

from __future__ import annotations

from urllib.parse import quote

from milonga_hub.alerts.models import AlertSignal, AlertView
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _

ADVICE = {
    AlertSignal.DEVICE_OFFLINE: N_("See that it has power and network. If it is gone for good, revoke it on its page."),
    AlertSignal.DRIFT: N_(
        "Look at what changed. If it is here to stay, label new pictures and start a run; a model from elsewhere has to be sent anew."
    ),
    AlertSignal.RUN_FAILED: N_("See what happened; a button on its page goes on from where it ended."),
    AlertSignal.ROLLOUT_PAUSED: N_("See which devices it is about; buttons on its page go on or end it."),
    AlertSignal.ROLLED_BACK: N_(
        "See at which step it failed; a button on the rollout's page tries it again, unless the rollout was aborted."
    ),
    AlertSignal.ERROR_RATE: N_("Its page has its log. An earlier version's page has a button that sends that one out."),
    AlertSignal.LATENCY: N_(
        "See whether it is hot or does other work. If this is how it is now, start a run, or send the model anew: that measures again."
    ),
    AlertSignal.TEMPERATURE: N_(
        "Cool it, or give it less to do: a lower limit of time for a picture makes its network smaller."
    ),
    AlertSignal.THROTTLED: N_("Cool it, or give it a stronger supply: until then it is slower than it was measured."),
    AlertSignal.POWER: N_(
        "See what else it does, or lower the limit of time for a picture, which makes its network smaller."
    ),
    AlertSignal.TELEMETRY_REFUSED: N_(
        "Its page tells why and how much. An old agent can be upgraded there; what sends this and is not yours, revoke."
    ),
    AlertSignal.TELEMETRY_FLOOD: N_(
        "Its page has its log, and a button that starts its agent anew. What sends this and is not yours, revoke."
    ),
    AlertSignal.DEVICE_CLOCK: N_(
        "Set its clock, and see that it reaches a time server. If many devices are off alike, it is the clock of the hub."
    ),
    AlertSignal.TELEMETRY_DROPPED: N_("It could not reach the hub for long, or its disk is full."),
}

# What monitoring shows nothing of.
_SHOWN_BY_DEVICE = (AlertSignal.DEVICE_OFFLINE, AlertSignal.TELEMETRY_REFUSED, AlertSignal.DEVICE_CLOCK)


def advice(alert: AlertView) -> str:
    """Return what a person does about it on these pages; `next_step` says it for a terminal."""
    return _(ADVICE[alert.signal])


def ways(alert: AlertView) -> list[tuple[str, str]]:
    """Return (address, words) of pages, the one to begin with first."""
    kind, _slash, rest = alert.subject.partition("/")
    subject, project = quote(rest, safe=""), quote(alert.project, safe="")
    if alert.signal is AlertSignal.ROLLED_BACK:
        return [(f"/devices/{subject}#steps", _("its steps")), (f"/projects/{project}#rollouts", _("the rollouts"))]
    if kind == "devices":
        found = [(f"/devices/{subject}", _("the device"))]
        if alert.signal not in _SHOWN_BY_DEVICE:
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
