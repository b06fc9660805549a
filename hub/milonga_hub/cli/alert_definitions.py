"""milonga alerts rules, channels and test."""

from __future__ import annotations

from typing import Annotated

import typer
from milonga.v1 import alerts_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json
from milonga_hub.cli.output import NONE, number, print_json, say, table, word

# The verbs on alerts themselves are in alerts.py.
group = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="NAME")]


@group.command("rules")
def rules(hub: Hub = None, json: Json = False) -> None:
    """List the rules: what is watched, and how severe it is."""
    with Client() as client:
        response = client.alerts.ListAlertRules(pb.ListAlertRulesRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    rows = (
        (
            r.name,
            word(pb.AlertSignal, r.spec.watch) if r.spec.enabled else "off",
            number(r.spec.threshold) if r.spec.HasField("threshold") else "usual",
            number(r.spec.for_seconds, "s"),
            r.spec.selector or r.spec.project or "all",
            word(pb.AlertSeverity, r.spec.severity),
            ", ".join(r.spec.channels) or "all",
            "the hub's" if r.built_in else "yours",
        )
        for r in response.rules
    )
    table(("rule", "watches", "above", "for", "of", "severity", "channels", "whose"), rows)


@group.command("delete-rule")
def delete_rule(name: Name, hub: Hub = None, json: Json = False) -> None:
    """Forget a rule of yours; if it replaced one of the hub's, that holds again."""
    with Client() as client:
        response = client.alerts.DeleteAlertRule(pb.DeleteAlertRuleRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{name} is deleted")


@group.command("channels")
def channels(hub: Hub = None, json: Json = False) -> None:
    """List the channels that messages go to; secrets are not shown."""
    with Client() as client:
        response = client.alerts.ListAlertChannels(pb.ListAlertChannelsRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    elif not response.channels:
        say("no channels yet; copy one from fleet_configs/alerts, then: milonga apply -f FILE")
    else:
        rows = (
            (
                c.name,
                "webhook" if c.spec.HasField("webhook") else "e-mail",
                c.spec.webhook.url or f"{', '.join(c.spec.email.to)} by {c.spec.email.host}:{c.spec.email.port}",
                "set" if c.has_secret else NONE,
            )
            for c in response.channels
        )
        table(("channel", "kind", "to", "secret"), rows)


@group.command("delete-channel")
def delete_channel(name: Name, hub: Hub = None, json: Json = False) -> None:
    """Forget a channel and its secret."""
    with Client() as client:
        response = client.alerts.DeleteAlertChannel(pb.DeleteAlertChannelRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{name} is deleted")


@group.command("test")
def test(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="See: milonga alerts channels.")],
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Send a test message now, and say whether it was taken."""
    with Client() as client:
        response = client.alerts.TestAlertChannel(pb.TestAlertChannelRequest(name=channel), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"sent: {response.answer}")
