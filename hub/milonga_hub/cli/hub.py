"""milonga up, status."""

from __future__ import annotations

import json as json_text
import ssl
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from milonga.client.trust import keep, shown_authority
from milonga.pinning import fingerprint
from milonga.v1 import devices_pb2, projects_pb2, rollouts_pb2

from milonga_hub.cli.client import Client, Hub, Json
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import clean, console, facts, say, word
from milonga_hub.cli.timeline import render_run


def up(
    data_dir: Annotated[Path | None, typer.Option(help="Database, blobs and job folders.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, for HTTP, gRPC and MQTT.")] = None,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Dashboard and REST; 0 takes a free one.")
    ] = None,
    https_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Certificate chain (PEM) to encrypt the HTTP port with; none leaves that to a proxy."
        ),
    ] = None,
    https_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Key (PEM) of that certificate, where it is not in the same file."),
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="gRPC, for programs and devices that join; 0 takes a free one.")
    ] = None,
    device_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="gRPC, for devices with a certificate; 0 takes a free one.")
    ] = None,
    mqtt_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The hub's own MQTT broker, for devices; 0 takes a free one.")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="auto|embedded|mosquitto|URL",
            help="MQTT broker; auto takes mosquitto where it is installed; a URL is mqtts://broker.example:8883.",
        ),
    ] = None,
    broker_ca: Annotated[
        Path | None, typer.Option(help="Authority (PEM) of a broker by URL, where that is not the hub's own.")
    ] = None,
    broker_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where devices reach a broker by URL, where that is not the URL's."),
    ] = None,
    database_url: Annotated[str | None, typer.Option(help="SQLAlchemy URL; empty: SQLite in the data folder.")] = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where pictures, models and builds are kept: s3://BUCKET/PREFIX or file:///FOLDER; else the data folder.",
        ),
    ] = None,
    blob_cache_bytes: Annotated[
        int | None, typer.Option(help="Most that copies of blobs elsewhere take of the disk; the oldest go first.")
    ] = None,
    max_upload_bytes: Annotated[int | None, typer.Option(help="Largest archive that an import takes.")] = None,
    quotas: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What each project may take of this hub (docs/quotas.md).")
    ] = None,
    max_download_kbps: Annotated[
        float | None, typer.Option(help="Most that all downloads of devices together take, in kbit/s; 0: no limit.")
    ] = None,
    max_device_download_kbps: Annotated[
        float | None, typer.Option(help="Most that the downloads of each device take, in kbit/s; 0: no limit.")
    ] = None,
    delta_cache_bytes: Annotated[
        int | None, typer.Option(help="Most that deltas between builds take of the disk; the oldest go first.")
    ] = None,
    heartbeat_seconds: Annotated[float | None, typer.Option(help="How often agents report.")] = None,
    telemetry_seconds: Annotated[float | None, typer.Option(help="Length of a telemetry window, at least 0.2.")] = None,
    measuring_seconds: Annotated[
        float | None, typer.Option(help="Most that a device takes to time one network.")
    ] = None,
    certificate_days: Annotated[
        float | None, typer.Option(help="Lifetime of a device's certificate; renewed by itself after half of it.")
    ] = None,
    absence_days: Annotated[
        float | None, typer.Option(help="How long after its certificate a device may come back by itself.")
    ] = None,
    server_names: Annotated[
        list[str] | None,
        typer.Option(help="Further name of the hub, in its certificate and for a proxy on its machine; repeatable."),
    ] = None,
    telemetry_raw_days: Annotated[float | None, typer.Option(help="How long telemetry stays as it came.")] = None,
    telemetry_minute_days: Annotated[
        float | None, typer.Option(help="How long telemetry is kept as one window a minute.")
    ] = None,
    telemetry_days: Annotated[
        float | None, typer.Option(help="How long telemetry is kept at all, as one window an hour.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="How the hub writes its log: text, or json, one object a line.")
    ] = None,
    traces_endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Collector for OpenTelemetry traces (OTLP over HTTP): http://collector:4318."),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow server that is told of runs and model versions: http://mlflow:5000."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster that jobs run on (docs/ray.md): ray://head:10001."),
    ] = None,
    ray_resources: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=cpu:N,...", help="What a job takes of it: train=cpu:8,gpu:1,memory_gib:16; repeatable."
        ),
    ] = None,
    ray_jobs: Annotated[int | None, typer.Option(min=1, help="Most jobs that the hub has on it at a time.")] = None,
    session_days: Annotated[float | None, typer.Option(help="How long a browser stays signed in.")] = None,
    audit_days: Annotated[float | None, typer.Option(help="How long the audit log keeps an entry.")] = None,
    oidc_issuer: Annotated[
        str | None, typer.Option(help="Address of the OpenID provider by which people may sign in (docs/security.md).")
    ] = None,
    oidc_client_id: Annotated[str | None, typer.Option(help="What the OpenID provider calls this hub.")] = None,
    oidc_client_secret_file: Annotated[
        Path | None, typer.Option(help="File with the secret that the OpenID provider gave.")
    ] = None,
    oidc_name: Annotated[str | None, typer.Option(help="What people call the OpenID provider, on the button.")] = None,
    oidc_role_claim: Annotated[str | None, typer.Option(help="Claim that tells a person's role (groups).")] = None,
    oidc_roles: Annotated[
        list[str] | None, typer.Option(help="Role for a word in that claim: WORD=operator; repeatable.")
    ] = None,
    oidc_default_role: Annotated[
        str | None, typer.Option(help="Role of those whose words have none (viewer); none refuses them.")
    ] = None,
    oidc_domains: Annotated[
        list[str] | None, typer.Option(help="Domain of e-mail addresses that may sign in; repeatable.")
    ] = None,
    missed_heartbeats: Annotated[
        int | None, typer.Option(help="Missed heartbeats until a device counts as offline.")
    ] = None,
) -> None:
    """Run the hub until Ctrl-C. Each flag is also an environment variable: --http-port is MILONGA_HTTP_PORT."""
    given = {name: value for name, value in locals().items() if value is not None}
    # Imported here, so that all other verbs start fast.
    from pydantic import ValidationError

    from milonga_hub.settings import Settings

    try:
        settings = Settings(**given)
    except ValidationError as error:
        words = "; ".join(f"--{'-'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise Refused(words, USAGE) from error
    from milonga_hub.accounts.oidc import provider

    try:
        provider(settings)
    except ValueError as error:
        raise Refused(str(error), USAGE) from error
    from milonga_hub.app import main

    raise typer.Exit(main(settings))


def trust(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The hub's gRPC address.")],
    wanted: Annotated[
        str, typer.Option("--fingerprint", metavar="sha256:...", help="Trust only this one, and do not ask.")
    ] = "",
    json: Json = False,
) -> None:
    """Let this machine's command line believe a hub elsewhere; `milonga up` prints its fingerprint there."""
    authority = shown_authority(address, wanted)
    found = fingerprint(ssl.PEM_cert_to_DER_cert(authority))
    if not wanted:
        say(f"The hub at {address} shows {found}.")
        if not typer.confirm("Is that what `milonga up` printed on the hub's machine?"):
            raise Refused(f"{address} is not trusted; somebody may stand between here and the hub")
    path = keep(address, authority)
    if json:
        typer.echo(json_text.dumps({"hub": address, "fingerprint": found}))
    else:
        say(f"{address} is trusted (kept in {path})")


def status(hub: Hub = None, json: Json = False) -> None:
    """Say in a few lines how the hub and its fleet are."""
    with Client() as client:
        devices = client.all(client.devices.ListDevices, devices_pb2.ListDevicesRequest(), "devices").devices
        runs = client.all(client.runs.ListRuns, projects_pb2.ListRunsRequest(), "runs", limit=20).runs
        rollouts = client.all(client.rollouts.ListRollouts, rollouts_pb2.ListRolloutsRequest(), "rollouts", limit=20)
    summary = _summary(client.address, devices, runs, rollouts.rollouts)
    if json:
        typer.echo(json_text.dumps(summary, indent=2, ensure_ascii=False))
        return
    online = summary["devices"]["online"]
    facts(
        (
            ("hub", f"{client.address} answers"),
            ("devices", f"{online} online of {len(devices)}"),
            *(("serving", f"{version or 'nothing'}: {count}") for version, count in summary["serving"].items()),
            *(("rollout", f"{each['id']} {each['state']}") for each in summary["rollouts"]),
        )
    )
    if runs:
        console().print(render_run(runs[0]))
    else:
        say(_next_step(bool(devices)))


def doctor(
    data_dir: Annotated[
        Path | None, typer.Option(help="The hub's data folder, as for milonga up (MILONGA_DATA_DIR).")
    ] = None,
    json: Json = False,
) -> None:
    """Examine the hub on its own machine, running or not, and say what to do; exit code 1 where a check has failed."""
    from dataclasses import asdict

    from milonga_hub.doctor import Result, examine, worst
    from milonga_hub.settings import Settings

    checks = examine(Settings(data_dir=data_dir) if data_dir else Settings())
    result = worst(checks)
    if json:
        typer.echo(json_text.dumps({"result": result, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            typer.echo(f"{check.result:<8}  {check.name:<{width}}  {clean(check.found)}")
            if check.next_step:
                typer.echo(f"{'':<8}  {'':<{width}}  -> {check.next_step}")
    raise typer.Exit(int(result is Result.FAILED))


def _summary(address: str, devices: Any, runs: Any, rollouts: Any) -> dict[str, Any]:
    states = Counter(word(devices_pb2.DeviceState, device.state) for device in devices)
    open_states = (rollouts_pb2.ROLLOUT_STATE_RUNNING, rollouts_pb2.ROLLOUT_STATE_PAUSED)
    return {
        "hub": address,
        "devices": {"total": len(devices), "online": states["online"], "offline": states["offline"]},
        "serving": dict(Counter(device.active_version for device in devices)),
        "runs": [{"name": run.name, "state": word(projects_pb2.RunState, run.state)} for run in runs],
        "rollouts": [
            {"id": each.id, "state": word(rollouts_pb2.RolloutState, each.state)}
            for each in rollouts
            if each.state in open_states
        ],
    }


def _next_step(has_devices: bool) -> str:
    if not has_devices:
        return "no devices yet; make a token: milonga tokens create"
    return (
        "no runs yet; send pictures (milonga datasets import FOLDER --name NAME), then: milonga apply -f PROJECT.yaml"
    )
