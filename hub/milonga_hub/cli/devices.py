"""milonga tokens, devices, measurements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from milonga.v1 import devices_pb2 as pb
from milonga.v1 import hubs_pb2, telemetry_pb2

from milonga_hub.cli.asking import ask
from milonga_hub.cli.client import CALL_SECONDS, Client, Hub, Json, Limit
from milonga_hub.cli.failures import USAGE, Refused
from milonga_hub.cli.output import (
    NONE,
    ago,
    duration,
    facts,
    labels,
    number,
    print_json,
    say,
    short,
    size,
    table,
    transferred,
    word,
)
from milonga_hub.install.reach import address_for_others
from milonga_hub.names import short_version

# Less is what a network does to a heartbeat.
_CLOCK_SHOWN_SECONDS = 5.0

tokens = typer.Typer()
devices = typer.Typer()
measurements = typer.Typer()

Selector = Annotated[
    str,
    typer.Option("--selector", "-l", help='Which devices, for example "type=pi5, site in (busan, seoul), !canary".'),
]


def pairs(texts: list[str], *, removable: bool = False) -> dict[str, str]:
    """Return labels from KEY=VALUE words; with `removable`, KEY- removes one."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key and (value or removable):
            found[key] = value
        elif removable and not equals and text.endswith("-") and len(text) > 1:
            found[text[:-1]] = ""
        else:
            raise Refused(f"{text!r} is not a label; write KEY=VALUE" + (" or KEY-" if removable else ""), USAGE)
    return found


@tokens.command("create")
def create_token(
    label: Annotated[list[str], typer.Option("--label", help="KEY=VALUE that devices get; repeatable.")] = [],  # noqa: B006
    uses: Annotated[int, typer.Option(min=1, help="How many devices may join with it.")] = 1,
    hours: Annotated[float, typer.Option(min=0.01, help="How long it is good for.")] = 24.0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Make a token with which a device joins; its secret is shown only now."""
    request = pb.CreateJoinTokenRequest(labels=pairs(label), uses=uses, lifetime_seconds=max(1, round(hours * 3600)))
    with Client() as client:
        response = client.devices.CreateJoinToken(request, timeout=CALL_SECONDS)
        if json:
            print_json(response)
            return
        dashboard, agents, is_reachable = _addresses(client)
    say(f"Join token, for {uses} device(s), good for {hours:g} hours, shown only now:", "")
    # On a line of its own and never wrapped, so that it can be copied.
    typer.echo(response.secret)
    if not is_reachable:
        say("", "Only this machine reaches the hub; to let other devices in, start it with: milonga up --host 0.0.0.0")
    say(
        "",
        f"On the device, to install the agent ({dashboard} is this hub's dashboard, unless the device knows another way to it):",
    )
    typer.echo(f"  curl -fsSL {dashboard}/install.sh | sudo sh -s -- --token {response.secret}")
    say("", "Where it is installed:")
    typer.echo(f"  milonga-agent run --hub {agents} --join-token {response.secret}")


def _addresses(client: Client) -> tuple[str, str, bool]:
    """Return the URL of the hub's dashboard, HOST:PORT of its gRPC server for devices, and whether they reach them as far as is known."""
    response = client.hubs.ListHubs(hubs_pb2.ListHubsRequest(), timeout=CALL_SECONDS)
    listens_at = next((one.http for one in response.hubs if one.is_this and one.http), "0.0.0.0:8080")
    listens_on, _, port = listens_at.rpartition(":")
    here, _, grpc_port = client.address.rpartition(":")
    dashboard, is_reachable = address_for_others(f"{here}:{port}", listens_on)
    # A hub from before says nothing of certificates.
    url = f"{response.scheme or 'http'}://{dashboard}"
    return url, f"{dashboard.rpartition(':')[0]}:{grpc_port}", is_reachable


@tokens.command("list")
def list_tokens(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List join tokens, without their secrets."""
    with Client() as client:
        response = client.all(client.devices.ListJoinTokens, pb.ListJoinTokensRequest(), "join_tokens", limit)
    if json:
        print_json(response)
    elif not response.join_tokens:
        say("no join tokens yet; make one: milonga tokens create")
    else:
        rows = [(t.id, t.uses_left, labels(t.labels), ago(t, "expires_at")) for t in response.join_tokens]
        table(("token", "uses left", "labels", "expires"), rows, right=("uses left",))


def _system(found: pb.Inventory) -> str:
    """Return what the agent told of it: a simulated device has neither kernel nor Python."""
    return ", ".join(
        f"{name}{value}"
        for name, value in (("", found.os), ("kernel ", found.kernel), ("Python ", found.python))
        if value
    )


@devices.command("list")
def list_devices(selector: Selector = "", limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List devices."""
    request = pb.ListDevicesRequest(selector=selector)
    with Client() as client:
        response = client.all(client.devices.ListDevices, request, "devices", limit)
    if json:
        print_json(response)
    elif not response.devices:
        say(
            f"no device matches {selector!r}; see all: milonga devices list"
            if selector
            else "no devices yet; make a token: milonga tokens create"
        )
    else:
        columns = ("device", "type", "hardware", "state", "seen", "agent", "serves", "labels")
        table(columns, (_row(device) for device in response.devices))


def _row(device: pb.Device) -> tuple[object, ...]:
    hardware = "simulated" if device.simulated else "real"
    version = short_version(device.active_version)
    serves = f"{version} {device.active_engine}".strip() or "nothing"
    state = word(pb.DeviceState, device.state)
    agent = device.agent_version + ("" if _has_upgraded(device) else f" ({_upgrade_state(device)})")
    seen = ago(device, "seen_at")
    return device.name, device.device_type, hardware, state, seen, agent, serves, labels(device.labels)


def _show(device: pb.Device, transfers: pb.DeviceTransfers, refused: telemetry_pb2.RefusedTelemetry) -> None:
    found = device.inventory
    engines = [f"{engine.name} {engine.version} ({', '.join(engine.precisions)})" for engine in found.engines]
    facts(
        (
            ("device", device.name),
            ("type", f"{device.device_type} (simulated)" if device.simulated else device.device_type),
            ("state", word(pb.DeviceState, device.state)),
            ("seen", ago(device, "seen_at")),
            ("enrolled", ago(device, "enrolled_at")),
            ("labels", labels(device.labels)),
            ("key", device.key_fingerprint),
            ("certificate", f"ends {ago(device, 'certificate_expires_at')}"),
            ("revoked", ago(device, "revoked_at") if device.HasField("revoked_at") else ""),
            ("cloned", _cloned(device)),
            ("clock", _clock(device)),
            ("refused", _refused(refused)),
            ("says", device.status_message),
            ("serves", device.active_version),
            ("pinned to", device.pinned_version),
            ("build", f"{device.active_engine} {short(device.active_bundle)}" if device.active_bundle else ""),
            ("answers at", device.serving_url),
            ("downloads", transferred(transfers)),
            ("neighbours", _neighbours(transfers)),
            ("generation", f"{device.reported_generation} of {device.assigned_generation}"),
            ("agent", device.agent_version),
            ("upgrade", _upgrade(device)),
            ("board", found.board),
            ("processor", f"{found.cpu_model} ({found.architecture}), {found.cores} cores, {found.threads} threads"),
            ("memory", size(found.memory_bytes)),
            ("disk free", size(found.disk_free_bytes)),
            ("time zone", found.time_zone),
            ("system", _system(found)),
            ("engines", ", ".join(engines) or NONE),
            ("accelerators", ", ".join(f"{each.kind} {each.model}" for each in found.accelerators)),
        )
    )


def _has_upgraded(device: pb.Device) -> bool:
    """Return whether there is nothing to say of its agent's upgrade."""
    state = device.agent_upgrade.state
    return state in (pb.AGENT_UPGRADE_STATE_UNSPECIFIED, pb.AGENT_UPGRADE_STATE_SUCCEEDED)


def _upgrade_state(device: pb.Device) -> str:
    return f"upgrade {word(pb.AgentUpgradeState, device.agent_upgrade.state)}"


def _upgrade(device: pb.Device) -> str:
    """Return what the agent was to become, and what became of that."""
    if not device.HasField("agent_upgrade"):
        return ""
    upgrade = device.agent_upgrade
    when = [f"wanted {ago(upgrade, 'wanted_at')}"]
    when += [f"told {ago(upgrade, 'told_at')}"] if upgrade.HasField("told_at") else []
    when += [f"ended {ago(upgrade, 'ended_at')}"] if upgrade.HasField("ended_at") else []
    said = f"{word(pb.AgentUpgradeState, upgrade.state)}: to {upgrade.agent_version}, {', '.join(when)}"
    return f"{said}; {upgrade.message}" if upgrade.message else said


def _neighbours(transfers: pb.DeviceTransfers) -> str:
    said = [f"served at {', '.join(transfers.serves_at)}"] if transfers.serves_at else []
    said += [f"{size(transfers.served_bytes)} sent to them"] if transfers.served_bytes else []
    return "; ".join(said)


def _refused(refused: telemetry_pb2.RefusedTelemetry) -> str:
    if not refused.count:
        return ""
    return f"{refused.count} messages, the last {ago(refused, 'refused_at')}: {refused.reason}"


def _clock(device: pb.Device) -> str:
    """Return how far the device's clock is off, "" where it is not, or does not tell."""
    ahead = device.clock_ahead_seconds
    if abs(ahead) < _CLOCK_SHOWN_SECONDS:
        return ""
    return f"{duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the hub's; on it: timedatectl set-ntp true"


def _cloned(device: pb.Device) -> str:
    if not device.HasField("cloned_at"):
        return ""
    when = ago(device, "cloned_at")
    return f"two machines had this identity {when}; if it was copied: milonga devices revoke {device.name}"


def get_device(client: Client, device: str) -> pb.Device:
    """Return the device. The call fails where there is none of that name."""
    return client.devices.GetDevice(pb.GetDeviceRequest(name=device), timeout=CALL_SECONDS).device


@devices.command("show")
def show_device(device: str, hub: Hub = None, json: Json = False) -> None:
    """Show one device with its inventory."""
    with Client() as client:
        response = client.devices.GetDevice(pb.GetDeviceRequest(name=device), timeout=CALL_SECONDS)
        came = client.devices.GetDeviceTransfers(pb.GetDeviceTransfersRequest(name=device), timeout=CALL_SECONDS)
        built = client.all(
            client.devices.ListDeviceBuilds, pb.ListDeviceBuildsRequest(device=device), "device_builds", 0
        )
        name = response.device.name
        asked = telemetry_pb2.GetRefusedTelemetryRequest(device=name)
        refused = client.telemetry.GetRefusedTelemetry(asked, timeout=CALL_SECONDS)
    if json:
        print_json(response, refused)
        return
    _show(response.device, came.transfers, refused.refused_telemetry)
    if built.device_builds:
        say("", "Built on the device itself (milonga devices builds lists those of all):")
        _show_builds(built.device_builds)


def _show_builds(builds: Iterable[pb.DeviceBuild]) -> None:
    rows = (
        (
            each.device,
            f"{each.engine}/{each.precision}",
            "verified" if each.state == pb.DEVICE_BUILD_STATE_VERIFIED else "not verified on hardware",
            number(each.seconds, "s"),
            build_note(each),
        )
        for each in builds
    )
    table(("device", "target", "state", "took", "note"), rows, right=("took",))


def build_note(build: pb.DeviceBuild) -> str:
    """Return what a build on a device was made with, and what came of it."""
    made_with = f"{build.engine} {build.engine_version or 'missing'}" + (f", {build.gpu}" if build.gpu else "")
    if build.state == pb.DEVICE_BUILD_STATE_VERIFIED:
        alike = f", {build.agreement:.1%} decided as the network does" if build.HasField("agreement") else ""
        return f"error {build.max_abs_error:.2g}{alike}{', cached' if build.cached else ''} ({made_with})"
    return f"{word(pb.DeviceBuildState, build.state)}: {build.error} ({made_with})"


@devices.command("builds")
def list_device_builds(
    device: Annotated[str, typer.Option(help="Only of this device.")] = "",
    bundle: Annotated[str, typer.Option(help="Only of the bundle with this digest.")] = "",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List what devices built for themselves (engines that fit one GPU only), and what came of it."""
    request = pb.ListDeviceBuildsRequest(device=device, bundle=bundle)
    with Client() as client:
        response = client.all(client.devices.ListDeviceBuilds, request, "device_builds", limit)
    if json:
        print_json(response)
    elif not response.device_builds:
        say("no device has built anything itself yet; targets such as tensorrt/fp16 make them do so")
    else:
        _show_builds(response.device_builds)


@devices.command("label")
def label_device(
    device: str,
    label: Annotated[list[str], typer.Argument(help="KEY=VALUE sets a label, KEY- removes it.")],
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Set or remove labels; the others stay."""
    request = pb.UpdateDeviceRequest(name=device, labels=pairs(label, removable=True))
    with Client() as client:
        response = client.devices.UpdateDevice(request, timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.device.name}: {labels(response.device.labels)}")


@devices.command("delete")
def delete_device(
    device: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Forget a device, end its connections and refuse its certificate from now on."""
    with Client() as client:
        if not yes and not json:
            question = f"Forget {device}? It must enrol again to come back."
            ask(question, f"{device} stays", lambda: get_device(client, device))
        response = client.devices.DeleteDevice(pb.DeleteDeviceRequest(name=device), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{device} is forgotten; the agent on it can be stopped")


@devices.command("revoke")
def revoke_device(
    device: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """Shut a device out at once; it stays in the list, and its key is refused."""
    with Client() as client:
        if not yes and not json:
            ask(f"Shut {device} out? Its connections end now.", f"{device} stays", lambda: get_device(client, device))
        response = client.devices.RevokeDevice(pb.RevokeDeviceRequest(name=device), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{device} is shut out; to let it join again: milonga devices delete {device}, then enrol it")


@devices.command("pending")
def list_pending(limit: Limit = 0, hub: Hub = None, json: Json = False) -> None:
    """List machines that asked to join without a token."""
    with Client() as client:
        response = client.all(client.devices.ListJoinRequests, pb.ListJoinRequestsRequest(), "join_requests", limit)
    if json:
        print_json(response)
    elif not response.join_requests:
        say("no machine asks to join; they do with: milonga-agent run --hub HOST:PORT --fingerprint sha256:...")
    else:
        table(
            ("id", "wants to be", "state", "hardware", "from", "asked", "key"),
            (
                (
                    each.id,
                    each.device,
                    word(pb.JoinRequestState, each.state),
                    each.inventory.board or each.inventory.cpu_model or each.inventory.architecture,
                    each.address,
                    ago(each, "asked_at"),
                    each.key_fingerprint,
                )
                for each in response.join_requests
            ),
        )


Request = Annotated[str, typer.Argument(help="The request's id, or the wanted name where only one request has it.")]


@devices.command("approve")
def approve_request(request: Request, hub: Hub = None, json: Json = False) -> None:
    """Let a machine in that asked to join without a token; compare its key first."""
    with Client() as client:
        response = client.devices.ApproveJoinRequest(pb.ApproveJoinRequestRequest(id=request), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(f"{response.join_request.device} gets its certificate the next time that it asks, within seconds")


@devices.command("refuse")
def refuse_request(request: Request, hub: Hub = None, json: Json = False) -> None:
    """Turn a machine away that asked to join without a token."""
    with Client() as client:
        response = client.devices.RefuseJoinRequest(pb.RefuseJoinRequestRequest(id=request), timeout=CALL_SECONDS)
    if json:
        print_json(response)
    else:
        say(
            f"{response.join_request.device} is refused; milonga devices approve {response.join_request.id} undoes that"
        )


@devices.command("watch")
def watch_devices(selector: Selector = "", hub: Hub = None, json: Json = False) -> None:
    """Print devices as they are and whenever they change, until Ctrl-C."""
    with Client() as client:
        for device in client.hub.devices.watch_devices(selector):
            if json:
                print_json(pb.WatchDevicesResponse(device=device), lines=True)
            else:
                name, kind, hardware, state, _, _, serves, _ = _row(device)
                say(f"{name}  {kind} ({hardware})  {state}  {serves}  {device.status_message}".rstrip())


@measurements.command("list")
def list_measurements(
    device_type: Annotated[str, typer.Option("--type", help="Only of this device type.")] = "",
    run: Annotated[str, typer.Option(help="Only of this run.")] = "",
    limit: Limit = 0,
    hub: Hub = None,
    json: Json = False,
) -> None:
    """List what was measured on devices."""
    from milonga_hub.cli.client import run_name

    request = pb.ListMeasurementsRequest(device_type=device_type, run=run_name(run))
    with Client() as client:
        response = client.all(client.devices.ListMeasurements, request, "measurements", limit)
    if json:
        print_json(response)
    elif not response.measurements:
        say("no measurements yet; a run makes them: milonga apply -f PROJECT.yaml")
    else:
        rows = (
            (
                m.device,
                short(m.subnet),
                f"{m.engine}/{m.precision}",
                m.purpose,
                m.error or number(m.median_ms, "ms"),
                NONE if m.error else number(m.p99_ms, "ms"),
                note(m),
                ago(m, "measured_at"),
            )
            for m in response.measurements
        )
        columns = ("device", "subnet", "engine", "purpose", "median", "p99", "note", "when")
        table(columns, rows, right=("p99",))


def note(measurement: pb.Measurement) -> str:
    """Return why the figures may not be trusted; empty where they may."""
    reasons = {
        "throttled": measurement.throttled,
        "drifting": measurement.drifting,
        "not settled": measurement.HasField("settled") and not measurement.settled,
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds)
