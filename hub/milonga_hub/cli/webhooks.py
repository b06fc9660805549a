"""milonga webhooks: programs that are told what happens."""

from __future__ import annotations

from typing import Annotated

import typer
from milonga.v1 import alerts_pb2
from milonga.v1 import webhooks_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit
from milonga_hub.cli.output import NONE, ago, print_json, say, table, word

group = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its name, for example chat; see: milonga webhooks ls.")]


@group.command("ls")
def list_webhooks(hub: Hub = None, json: Json = False) -> None:
    """List who is told of what."""
    with Client() as client:
        response = client.webhooks.ListWebhooks(pb.ListWebhooksRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    elif response.webhooks:
        rows = (
            (each.name, each.url, ", ".join(each.events) or "all", each.project or "all", ago(each, "created_at"))
            for each in response.webhooks
        )
        table(("webhook", "address", "events", "projects", "made"), rows)
    else:
        say("no webhooks yet; make one: milonga webhooks set NAME --url https://host/path")


@group.command("set")
def set_webhook(
    name: Name,
    url: Annotated[str, typer.Option(help="Where to post, for example https://host/path.")],
    event: Annotated[
        list[str],
        typer.Option(
            help="A kind of event, for example rollout.finished; again for more. Without, all. See docs/webhooks.md."
        ),
    ] = [],  # noqa: B006
    project: Annotated[str, typer.Option(help="Only what is of this project.")] = "",
    secret_stdin: Annotated[
        bool,
        typer.Option("--secret-stdin", help="Read the secret that signs messages from stdin; else the hub makes one."),
    ] = False,
    give_up_after_hours: Annotated[
        float, typer.Option(min=0.0, max=744.0, help="How long a message is tried again.")
    ] = 24.0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Tell an address what happens from now on; a webhook of this name is changed. Its secret is shown only now."""
    request = pb.ApplyWebhookRequest(
        name=name,
        url=url,
        events=event,
        project=project,
        secret=typer.get_text_stream("stdin").readline().strip() if secret_stdin else "",
        give_up_after_seconds=give_up_after_hours * 3600.0,
    )
    with Client() as client:
        response = client.webhooks.ApplyWebhook(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    if response.secret and not secret_stdin:
        typer.echo(response.secret)
        say("the secret that signs its messages; keep it with the receiver, for it is shown only now")
    told = ", ".join(response.webhook.events) or "everything"
    whose = f" of {response.webhook.project}" if response.webhook.project else ""
    say(f"{name} is told of {told}{whose}; try: milonga webhooks test {name}")


@group.command("delete")
def delete_webhook(name: Name, hub: Hub = None, json: Json = False) -> None:
    """Tell it nothing more; what waits for it is given up."""
    with Client() as client:
        response = client.webhooks.DeleteWebhook(pb.DeleteWebhookRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{name} is deleted")


@group.command("test")
def test(name: Name, hub: Hub = None, json: Json = False) -> None:
    """Send a test event now, and say whether it was taken."""
    with Client() as client:
        response = client.webhooks.TestWebhook(pb.TestWebhookRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"sent: {response.answer}")


@group.command("redeliver")
def redeliver(
    name: Name,
    delivery: Annotated[
        str, typer.Option(help="The id of one message; see: milonga webhooks deliveries --given-up --json.")
    ] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Send once more what it never took: the oldest first, under the ids that they had."""
    request = pb.RedeliverWebhookRequest(name=name, delivery=delivery)
    with Client() as client:
        response = client.webhooks.RedeliverWebhook(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        count = len(response.deliveries)
        say(f"{count} {'is' if count == 1 else 'are'} sent again; see: milonga webhooks deliveries --webhook {name}")


@group.command("deliveries")
def deliveries(
    webhook: Annotated[str, typer.Option(help="Only to this one.")] = "",
    given_up: Annotated[bool, typer.Option("--given-up", help="Only what never arrived.")] = False,
    limit: Limit = 50,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List what was sent or is to be sent, the newest first."""
    state = alerts_pb2.DELIVERY_STATE_GIVEN_UP if given_up else alerts_pb2.DELIVERY_STATE_UNSPECIFIED
    request = pb.ListWebhookDeliveriesRequest(webhook=webhook, state=state)
    with Client() as client:
        response = client.all(client.webhooks.ListWebhookDeliveries, request, "deliveries", limit)
    if json:
        print_json(response)
    elif response.deliveries:
        rows = (
            (
                each.webhook,
                each.event,
                each.subject,
                word(alerts_pb2.DeliveryState, each.state),
                str(each.attempts),
                ago(each, "created_at"),
                each.error or NONE,
            )
            for each in response.deliveries
        )
        table(("webhook", "event", "of", "state", "tries", "queued", "last error"), rows)
    else:
        say("nothing was sent yet")
