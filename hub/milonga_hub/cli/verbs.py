"""All verbs, one file for each group of them."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from milonga_hub.cli import (
    accounts,
    alerts,
    applying,
    backup,
    bench,
    blobs,
    broker,
    builds,
    bundles,
    datasets,
    device_help,
    device_versions,
    devices,
    exchange,
    exporting,
    hub,
    hubs,
    keys,
    migrate,
    model_import,
    models,
    plugins,
    projects,
    rollouts,
    runs,
    samples,
    simulate,
    telemetry,
    types,
    webhooks,
)
from milonga_hub.cli.client import HUB_VARIABLE, remember_hub

app = typer.Typer(
    help="Keep the best network that each device can run running on it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _begin(
    hub_address: str = typer.Option(
        "127.0.0.1:8443", "--hub", envvar=HUB_VARIABLE, metavar="HOST:PORT", help="gRPC address of the hub."
    ),
) -> None:
    remember_hub(hub_address)


class _Group(TyperGroup):
    """Takes "ls" and "list" for the same, whichever of them a group has."""

    # Which click these are of differs between releases of typer.
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        other = {"ls": "list", "list": "ls"}.get(cmd_name)
        return super().get_command(ctx, other) if found is None and other else found


# They add their verbs to those of devices and of models.
_MORE = (device_help, device_versions, model_import)

app.command("up")(hub.up)
app.command("status")(hub.status)
app.command("simulate")(simulate.simulate)
app.command("trust")(hub.trust)
app.command("login")(accounts.login)
app.command("logout")(accounts.logout)
app.command("whoami")(accounts.whoami)
app.command("doctor")(hub.doctor)
app.command("backup")(backup.backup)
app.command("migrate")(migrate.migrate)
app.command("restore")(backup.restore)
app.command("agent-bundle")(bundles.agent_bundle)
app.command("apply")(applying.apply)
app.command("diff")(applying.diff)
app.command("schema")(applying.schema)
for name, group, words in (
    ("tokens", devices.tokens, "Tokens with which devices join."),
    ("devices", devices.devices, "Enrolled machines."),
    ("types", types.group, "Device types: devices with like hardware."),
    ("measurements", devices.measurements, "Latencies measured on devices."),
    ("datasets", datasets.group, "Labelled pictures, in versions."),
    ("projects", projects.group, "What you want of your fleet."),
    ("runs", runs.group, "Passes of the loop: train, measure, search, build, compare, roll out."),
    ("models", models.models, "The registry of model versions."),
    ("build", builds.group, "What was built of a model version for each device type, engine and precision."),
    ("rollouts", rollouts.group, "Versions on their way to devices."),
    ("keys", keys.group, "Keys that sign what devices install."),
    ("blobs", blobs.group, "Where pictures, models and builds are kept."),
    ("broker", broker.group, "MQTT brokers that run without the hub."),
    ("samples", samples.group, "Pictures that devices sent to be labelled."),
    ("telemetry", telemetry.group, "What devices see and do."),
    ("plugins", plugins.group, "Code of others that plugs in through entry points."),
    ("import", exchange.group, "Projects of other tools."),
    ("export", exporting.group, "What the hub does, for other tools."),
    ("alerts", alerts.group, "What needs a person: alerts, rules, silences and channels."),
    ("webhooks", webhooks.group, "Programs that are told what happens."),
    ("hubs", hubs.group, "The hubs that serve this fleet together."),
    ("users", accounts.users, "People who may sign in, and what they may."),
    ("api-keys", accounts.api_keys, "Keys with which programs call the hub."),
    ("audit", accounts.audit, "Who changed what."),
    ("bench", bench.group, "How well the hub's models do on your own tables."),
):
    app.add_typer(group, name=name, help=words, no_args_is_help=True, cls=_Group)
# As the API calls them.
app.add_typer(builds.group, name="builds", help="The same as build.", no_args_is_help=True, hidden=True, cls=_Group)
