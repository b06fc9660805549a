"""milonga build."""

from __future__ import annotations

import getpass
import io
import json as json_text
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer
from milonga.v1 import models_pb2 as pb

from milonga_hub.cli.buildtables import candidate_table, print_build, render_build, state_of
from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit, build_name, version_name
from milonga_hub.cli.failures import FAILED, NOT_FOUND, USAGE, Refused
from milonga_hub.cli.output import clean, measure, number, percent, print_json, say, size, table
from milonga_hub.cli.runs import show_updates
from milonga_hub.names import short_version

group = typer.Typer()

Name = Annotated[
    str,
    typer.Argument(
        metavar="BUILD",
        help="MODEL/NUMBER/TYPE/ENGINE/PRECISION, or models/MODEL/versions/NUMBER/builds/TYPE:ENGINE:PRECISION.",
    ),
]
Version = Annotated[str, typer.Argument(help="models/MODEL/versions/NUMBER, or short MODEL/NUMBER.")]

_MADE_BY_RUNS = "a run makes them: milonga runs list"


@group.command("ls")
def list_(
    version: Annotated[str, typer.Argument(help="Only of this version, for example MODEL/NUMBER.")] = "",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List builds."""
    request = pb.ListBuildsRequest(model_version=version_name(version))
    with Client() as client:
        response = client.all(client.builds.ListBuilds, request, "builds", limit)
        if version and not response.builds:
            _demand(client, version)
    if json:
        print_json(response)
    elif not response.builds and version:
        say(f"{version} has no builds yet; {_MADE_BY_RUNS}")
    elif not response.builds:
        say("no builds yet; a run makes them: milonga apply -f PROJECT.yaml")
    else:
        rows = (
            (
                short_version(b.model_version),
                b.device_type,
                f"{b.engine}/{b.precision}",
                state_of(b),
                percent(b.accuracy),
                number(b.measured_ms, "ms"),
                size(b.size_bytes),
            )
            for b in response.builds
        )
        accuracy = " or ".join(dict.fromkeys(measure(b.task) for b in response.builds))
        columns = ("version", "type", "target", "state", accuracy, "measured", "size")
        table(columns, rows, right=columns[4:])


def _demand(client: Client, version: str) -> None:
    """Raise NotFound where there is no such version: a misspelt one is not one without builds."""
    client.models.GetModelVersion(pb.GetModelVersionRequest(name=version_name(version)), timeout=CALL_SECONDS)


@group.command("show")
def show(
    build: Name,
    log: Annotated[bool, typer.Option("--log", help="Print what was done and what the engine printed.")] = False,
    manifest: Annotated[bool, typer.Option("--manifest", help="Print the bundle's manifest.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Show one build: its gates, its figures and its files; or its log, or its manifest."""
    if log and manifest:
        raise Refused("say --log or --manifest, not both", USAGE)
    response: Any
    name = build_name(build)
    with Client() as client:
        if log:
            response = client.builds.GetBuildLog(pb.GetBuildLogRequest(name=name), timeout=CALL_SECONDS)
        elif manifest:
            response = client.builds.GetBuildManifest(pb.GetBuildManifestRequest(name=name), timeout=CALL_SECONDS)
        else:
            response = client.builds.GetBuild(pb.GetBuildRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    elif log or manifest:
        text = response.text or "nothing was logged" if log else response.json
        for line in text.splitlines():
            typer.echo(clean(line))
    else:
        print_build(response.build)


@group.command("start")
def start(
    version: Version,
    target: Annotated[
        str, typer.Argument(metavar="TYPE/ENGINE/PRECISION", help="For example raspberry-pi-5/openvino/int8.")
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    tune: Annotated[
        str,
        typer.Option(metavar="TIME", help="Tune tvm's kernels first for so long: 90s, 10m or 2h.", show_default=False),
    ] = "",
    tune_on: Annotated[
        str,
        typer.Option(
            metavar="TYPE|DEVICE|hub",
            help="Where: on any device of the build's type, on one device, or on the hub's own processor.",
            show_default="the build's type",
        ),
    ] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Build a device type's subnet for one more target, outside a run, and have it measured."""
    device_type, slash, wanted = target.partition("/")
    if not slash or "/" not in wanted:
        raise Refused(
            f"a target is TYPE/ENGINE/PRECISION, for example raspberry-pi-5/openvino/int8; {target!r} is not", USAGE
        )
    request = pb.StartBuildRequest(model_version=version_name(version), device_type=device_type, target=wanted)
    if tune_on and not tune:
        raise Refused("say for how long to tune: --tune 10m", USAGE)
    if tune:
        request.tuning_minutes = _minutes(tune)
        request.tuning_site = pb.TUNING_SITE_HUB if tune_on == "hub" else pb.TUNING_SITE_DEVICE
        request.tuning_device = tune_on if tune_on not in ("", "hub", device_type) else ""
    with Client() as client:
        response = client.builds.StartBuild(request, timeout=CALL_SECONDS)
    if watch:
        follow(response.build.name, json)
    elif json:
        print_json(response)
    else:
        begun = "is being built already" if any(one.attempts for one in response.build.stages) else "is begun"
        say(f"{response.build.name} {begun}", f"follow it: milonga build watch {response.build.name}")


def _minutes(text: str) -> float:
    """Return how long "90s", "10m" or "2h" are."""
    number, unit = text[:-1], text[-1:]
    units = {"s": 1 / 60, "m": 1.0, "h": 60.0}
    if unit not in units or not number.replace(".", "", 1).isdigit():
        raise Refused(f"--tune takes a time such as 90s, 10m or 2h; {text!r} is none", USAGE)
    return float(number) * units[unit]


@group.command("watch")
def watch(build: Name, hub: Hub = None, json: Json = False) -> None:
    """Follow a build that is made outside a run. The exit code is 0 if it is verified and 1 if not."""
    follow(build_name(build), json)


def follow(name: str, json: bool) -> None:
    with Client() as client:
        updates = (pb.WatchBuildResponse(build=each) for each in client.hub.builds.watch_build(name))
        last = show_updates(updates, "build", render_build, json)
    if last is None or last.state != pb.BUILD_STATE_VERIFIED:
        raise typer.Exit(FAILED)


@group.command("cancel")
def cancel(build: Name, hub: Hub = None, json: Json = False) -> None:
    """End a build that is made outside a run; what was built for its target before stays as it is."""
    with Client() as client:
        response = client.builds.CancelBuild(pb.CancelBuildRequest(name=build_name(build)), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.build.name} is cancelled", f"ask for it again: milonga build start {_asked(response.build)}")


def _asked(build: pb.Build) -> str:
    """Return the arguments with which it is started."""
    return f"{short_version(build.model_version)} {build.device_type}/{build.engine}/{build.precision}"


@group.command("compare")
def compare(
    version: Version,
    device_type: Annotated[str, typer.Option("--type", help="Only for this device type.")] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Put all builds of a version side by side: latency, size, accuracy lost, error, and why each was taken or not."""
    request = pb.ListBuildsRequest(model_version=version_name(version))
    with Client() as client:
        response = client.all(client.builds.ListBuilds, request, "builds")
        if not response.builds:
            _demand(client, version)
    types = sorted({one.device_type for one in response.builds})
    if device_type and types and device_type not in types:
        raise Refused(f"{version} has no builds for {device_type!r}; it has for: {', '.join(types)}", NOT_FOUND)
    found = [one for one in response.builds if device_type in ("", one.device_type)]
    if json:
        print_json(pb.ListBuildsResponse(builds=found))
    elif not found:
        say(f"{version} has no builds yet; {_MADE_BY_RUNS}")
    else:
        for name in sorted({one.device_type for one in found}):
            candidate_table(name, [one for one in found if one.device_type == name])


@group.command("override")
def override(
    build: Name,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    by: Annotated[str, typer.Option(help="Who allows it, for the record.", show_default="your user name")] = "",
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Allow a build that is not verified on devices. The record keeps who, when and why."""
    request = pb.OverrideBuildRequest(name=build_name(build), by=by or getpass.getuser(), reason=reason)
    with Client() as client:
        response = client.builds.OverrideBuild(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.build.name} may go out", f"take it: milonga build choose {build}")


@group.command("choose")
def choose(build: Name, hub: Hub = None, json: Json = False) -> None:
    """Make this the build that devices of its type get, with the next rollout of its version."""
    with Client() as client:
        response = client.builds.ChooseBuild(pb.ChooseBuildRequest(name=build_name(build)), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        version = short_version(response.build.model_version)
        say(f"{response.build.name} is chosen", f"send it out: milonga rollouts create {version}")


@group.command("example")
def example(
    build: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; it must not exist.")],
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Download a build's bundle with a program that runs it with numpy, Pillow and its engine alone."""
    from milonga_compiler.examples import needs

    if output.exists():
        raise Refused(f"{output} exists already; name a new folder")
    with Client() as client:
        packed = io.BytesIO(b"".join(client.hub.builds.download_build(build_name(build))))
    output.mkdir(parents=True)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(output)
        names = sorted(archive.namelist())
    program = output / "example.py"
    if json:
        typer.echo(json_text.dumps({"folder": str(output), "files": names}))
    elif program.exists():
        wanted = needs(program.read_text(encoding="utf-8"))
        say(f"{len(names)} files in {output}; the program needs: {wanted}", f"try it: python {program} PICTURE")
    else:
        say(f"{len(names)} files in {output}; there is no example program for its engine")
