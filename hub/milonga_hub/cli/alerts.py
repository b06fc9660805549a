"""milonga alerts: what needs a person."""

from __future__ import annotations

import getpass
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from milonga.v1 import alerts_pb2 as pb

from milonga_hub.cli.alert_definitions import group
from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import NONE, ago, facts, moment, number, print_json, say, table, word

__all__ = ["group"]

Id = Annotated[str, typer.Argument(metavar="ALERT", help="Its id; see: milonga alerts list.")]
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container without a user of that number.
        return ""


By = Annotated[str, typer.Option("--by", default_factory=_me, help="Who; you, if left out.", show_default=False)]


def _until(text: str) -> datetime:
    found = re.fullmatch(r"0*([1-9]\d*)\s*([mhd])", text.strip())
    if found is None:
        raise Refused(f"--for takes minutes, hours or days such as 30m, 2h or 1d; {text!r} is not that", USAGE)
    try:
        return datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError as error:
        raise Refused(f"--for {text} is longer than calendars go; take at most 365d", USAGE) from error


def _state(alert: pb.Alert) -> str:
    if alert.state == pb.ALERT_STATE_RESOLVED:
        return "resolved"
    if alert.HasField("acknowledged_at"):
        return "acknowledged"
    return "silenced" if alert.HasField("silenced_until") else "open"


@group.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that have resolved, too.")] = False,
    project: Annotated[str, typer.Option("--project", help="Only of this project.")] = "",
    subject: Annotated[str, typer.Option(help="Only of this, for example devices/pi-3.")] = "",
    limit: Limit = 50,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List alerts that stand, the newest first."""
    state = pb.ALERT_STATE_UNSPECIFIED if everything else pb.ALERT_STATE_OPEN
    request = pb.ListAlertsRequest(state=state, project=project, subject=subject)
    with Client() as client:
        response = client.all(client.alerts.ListAlerts, request, "alerts", limit)
    if json:
        print_json(response)
    elif not response.alerts:
        say("no alerts; what is watched: milonga alerts rules")
    else:
        rows = (
            (a.id, word(pb.AlertSeverity, a.severity), _state(a), ago(a, "opened_at"), a.message)
            for a in response.alerts
        )
        table(("alert", "severity", "state", "opened", "what"), rows)


@group.command("show")
def show(alert: Id, hub: Hub = None, json: Json = False) -> None:
    """Show an alert, what to do about it, and whom it was sent to."""
    with Client() as client:
        response = client.alerts.GetAlert(pb.GetAlertRequest(id=alert), timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    found = response.alert
    resolved = f"{ago(found, 'resolved_at')}, {found.resolution}" if found.HasField("resolved_at") else ""
    acknowledged = f"{found.acknowledged_by}, {ago(found, 'acknowledged_at')}" if found.acknowledged_by else ""
    facts(
        (
            ("alert", found.id),
            ("what", found.message),
            ("what to do", found.next_step if found.state == pb.ALERT_STATE_OPEN else ""),
            ("subject", found.subject),
            ("project", found.project),
            ("rule", found.rule),
            ("severity", word(pb.AlertSeverity, found.severity)),
            ("state", _state(found)),
            ("began", ago(found, "since")),
            ("opened", ago(found, "opened_at")),
            ("value", number(found.value)),
            ("threshold", number(found.threshold)),
            ("resolved", resolved),
            ("acknowledged", acknowledged),
            *_note(found),
            ("silenced until", str(moment(found, "silenced_until") or "")),
        )
    )
    if response.deliveries:
        rows = (
            (d.channel, d.event, word(pb.DeliveryState, d.state), d.attempts, ago(d, "created_at"), d.error or NONE)
            for d in response.deliveries
        )
        table(("channel", "message", "state", "attempts", "made", "error"), rows, right=("attempts",))
    else:
        say("nothing was sent about it; channels: milonga alerts channels")


def _note(alert: pb.Alert) -> Iterator[tuple[str, str]]:
    """The newest note, and a line for each acknowledgement before."""
    for place, line in enumerate(alert.note.splitlines()):
        yield ("" if place else "note"), line


@group.command("ack")
def acknowledge(
    alert: Id,
    by: By,
    note: Annotated[str, typer.Option(help="What you know or do about it.")] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Say that you look after it: nothing more is sent until it has resolved."""
    request = pb.AcknowledgeAlertRequest(id=alert, by=by, note=note)
    with Client() as client:
        response = client.alerts.AcknowledgeAlert(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.alert.id} is acknowledged by {response.alert.acknowledged_by}: {response.alert.next_step}")
        before = response.alert.note.splitlines()[1:]
        if before:
            say("acknowledged before by:", *before)


@group.command("silence")
def silence(
    why: Annotated[str, typer.Option("--why", help="Why, for others to read.")],
    by: By,
    alert: Annotated[str, typer.Argument(metavar="[ALERT]", help="Its rule and subject are silenced.")] = "",
    lasting: Annotated[str, typer.Option("--for", help="30m, 2h or 1d.")] = "2h",
    rule: Annotated[str, typer.Option(help="Only this rule; else all.")] = "",
    subject: Annotated[str, typer.Option(help="Only this, for example devices/pi-3; else all.")] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Send nothing about an alert, a rule or a subject for a time; alerts still open and resolve."""
    if not (alert or rule or subject):
        raise Refused("name an alert, a --rule or a --subject; see: milonga alerts list", USAGE)
    request = pb.CreateSilenceRequest(
        rule=rule, subject=subject, reason=why, created_by=by, request_id=uuid.uuid4().hex
    )
    request.until.FromDatetime(_until(lasting))
    with Client() as client:
        if alert:
            found = client.alerts.GetAlert(pb.GetAlertRequest(id=alert), timeout=CALL_SECONDS).alert
            request.rule, request.subject = found.rule, found.subject
        response = client.alerts.CreateSilence(request, timeout=CALL_SECONDS)
    made = response.silence
    if json:
        print_json(response)
    else:
        say(
            f"{made.rule or 'all rules'} on {made.subject or 'everything'} silenced until"
            f" {moment(made, 'until'):%Y-%m-%d %H:%M} UTC; end it: milonga alerts unsilence {made.id}"
        )


@group.command("unsilence")
def unsilence(
    silence_id: Annotated[str, typer.Argument(metavar="SILENCE", help="See: milonga alerts silences.")],
    hub: Hub = None,
    json: Json = False,
) -> None:
    """End a silence now."""
    with Client() as client:
        response = client.alerts.EndSilence(pb.EndSilenceRequest(id=silence_id), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.silence.id} has ended")


@group.command("silences")
def silences(limit: Limit = 20, hub: Hub = None, json: Json = False) -> None:
    """List silences, the newest first."""
    with Client() as client:
        response = client.all(client.alerts.ListSilences, pb.ListSilencesRequest(), "silences", limit)
    if json:
        print_json(response)
    elif not response.silences:
        say("no silences; make one: milonga alerts silence ALERT --for 2h --why REASON")
    else:
        rows = (
            (s.id, s.rule or "all", s.subject or "all", ago(s, "until"), s.created_by or NONE, s.reason)
            for s in response.silences
        )
        table(("silence", "rule", "subject", "ends", "by", "why"), rows)
