"""All verbs, one file for each group of them."""

from __future__ import annotations

from collections import UserDict
from functools import cache
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


class _WhenAsked(UserDict[str, Any]):
    """Commands by name, each group of which is made when it is first asked for: all of them took a third of a second."""

    def __getitem__(self, name: str) -> Any:
        made = self.data[name]
        if isinstance(made, typer.Typer):
            # What add_typer() was told of the one group that this one holds is said nowhere else.
            made = self.data[name] = typer.main.get_group(made).commands[name]
        return made


class _Verbs(TyperGroup):
    """The verbs, and the groups of verbs."""

    def __init__(self, *, commands: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _WhenAsked({**commands, **_groups})


# Each stands alone in another one, by its name.
_groups: dict[str, typer.Typer] = {}

app = typer.Typer(
    cls=_Verbs,
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


def _add_group(group: typer.Typer, name: str, words: str, hidden: bool = False) -> None:
    _groups[name] = typer.Typer(rich_markup_mode=None)
    _groups[name].add_typer(group, name=name, help=words, no_args_is_help=True, hidden=hidden, cls=_Group)


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
    _add_group(group, name, words)
# As the API calls them.
_add_group(builds.group, "builds", "The same as build.", hidden=True)


@cache
def command() -> Any:
    """Return the command line; it is the same however often it is used."""
    return typer.main.get_command(app)
