"""milonga hubs: those that serve one fleet together."""

from __future__ import annotations

import typer
from milonga.v1 import hubs_pb2 as pb

from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json
from milonga_hub.cli.output import NONE, ago, print_json, say, table, word

group = typer.Typer()


@group.callback()
def _hubs() -> None:
    """Let `ls` be a verb of its own, though it is the only one."""


@group.command("ls")
def list_hubs(hub: Hub = None, json: Json = False) -> None:
    """List the hubs on the database, which of them leads, and who is lost. See docs/hubs.md."""
    with Client() as client:
        response = client.hubs.ListHubs(pb.ListHubsRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(response)
        return
    rows = (
        (
            f"{each.name} (this)" if each.is_this else each.name,
            word(pb.HubState, each.state),
            ago(each, "leads_since"),
            each.version,
            each.revision or NONE,
            each.grpc or NONE,
            ago(each, "started_at"),
            ago(each, "seen_at"),
        )
        for each in response.hubs
    )
    table(("hub", "state", "leads since", "version", "tables", "gRPC", "started", "last seen"), rows)
    if response.notice:
        say(response.notice)
