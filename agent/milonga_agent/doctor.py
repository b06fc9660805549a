"""Examine this device and its way to the hub: what is well, what is not, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from milonga.pinning import fingerprint, presented_chain

from milonga_agent.errors import AgentError
from milonga_agent.inventory import plugged_engines, probe
from milonga_agent.limits import Limits, default_threads
from milonga_agent.sensors import temperature_celsius
from milonga_agent.state import Identity, Store

OK, WARNING, FAILED = "ok", "warning", "failed"
_SECONDS = 5.0
# Certificates are made out a few minutes back, so that so much does no harm.
_CLOCK_SECONDS = 60.0
_BAD_CLOCK_SECONDS = 300.0
_LOW_DISK_BYTES, _NO_DISK_BYTES = 500_000_000, 50_000_000
_LOW_MEMORY_BYTES = 100_000_000
# Boards slow themselves down from 80 to 85 degrees on.
_HOT_CELSIUS, _WARM_CELSIUS = 80.0, 70.0
_DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    result: str
    found: str
    # What to do next; empty where it is well.
    next_step: str = ""


def examine(folder: Path, hub: str = "") -> list[Check]:
    """Look at everything; `hub` (HOST:PORT) is where a device that has not joined would join."""
    return [*_joined_and_reachable(folder, hub), *_machine(folder)]


def worst(checks: Sequence[Check]) -> str:
    """Return the worst result of all."""
    return max((check.result for check in checks), key=(OK, WARNING, FAILED).index, default=OK)


def _joined_and_reachable(folder: Path, hub: str) -> Iterator[Check]:
    identity, problem = None, ""
    store = Store(folder) if folder.is_dir() else None
    if store is not None:
        try:
            identity = store.identity()
        except AgentError as error:
            problem = str(error)
    if identity is None:
        join = "join a hub: milonga-agent run --hub HOST:PORT --join-token TOKEN (milonga tokens create makes one)"
        yield Check("joined", FAILED, problem or f"no identity in {folder}", join)
        if hub:
            yield from _way_to(hub, [("hub", _port(hub))])
        return
    yield Check("joined", OK, f"{identity.device}, a {identity.device_type}, at {identity.hub}")
    assert store is not None
    address = hub or identity.hub
    ports = [("hub", _port(address)), ("hub for devices", identity.device_port)]
    yield from _way_to(address, ports)
    yield from _broker(identity)
    yield from _trust(store, address)
    yield _certificate(store)


def _way_to(hub: str, ports: Sequence[tuple[str, int]]) -> Iterator[Check]:
    host = hub.rpartition(":")[0].strip("[]")
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None)})
    except OSError as error:
        yield Check(
            "name", FAILED, f"{host} has no address: {error.strerror or error}",
            "see that the name is right and that this device has a name server (/etc/resolv.conf), or give the hub's"
            " address instead: milonga-agent run --hub ADDRESS:PORT",
        )  # fmt: skip
        return
    yield Check("name", OK, f"{host} is {', '.join(found)}")
    for name, port in ports:
        yield _reachable(name, host, port)


def _broker(identity: Identity) -> Iterator[Check]:
    yield _reachable("telemetry", identity.mqtt_host.strip("[]"), identity.mqtt_port)


def _reachable(name: str, host: str, port: int) -> Check:
    began = time.monotonic()
    try:
        socket.create_connection((host, port), _SECONDS).close()
    except OSError as error:
        return Check(
            name, FAILED, f"nobody answers at {host}:{port}: {error.strerror or error}",
            f"see that the hub runs (milonga up --host 0.0.0.0) and that no firewall keeps port {port} shut",
        )  # fmt: skip
    return Check(name, OK, f"{host}:{port} answers in {1000.0 * (time.monotonic() - began):.0f} ms")


def _trust(store: Store, hub: str) -> Iterator[Check]:
    """Check that the hub is the one that was joined, and that the two clocks agree."""
    host, _, port = hub.rpartition(":")
    try:
        authority = presented_chain(host.strip("[]"), int(port), _SECONDS)[-1]
    except (OSError, ValueError) as error:
        yield Check("identity of the hub", WARNING, f"cannot be seen: {error}", "reach the hub first, see above")
        return
    pinned = fingerprint(ssl.PEM_cert_to_DER_cert(store.authority()))
    shown = fingerprint(authority)
    if shown != pinned:
        yield Check(
            "identity of the hub", FAILED, f"it shows {shown}, and {pinned} was joined",
            "this is another hub, or somebody between; if the hub was set up anew, join it again with a new token:"
            " milonga-agent enrol --hub HOST:PORT --join-token TOKEN",
        )  # fmt: skip
        return
    yield Check("identity of the hub", OK, shown)
    yield _clock(store, hub)


def _clock(store: Store, hub: str) -> Check:
    try:
        ahead = asyncio.run(_seconds_ahead(hub, store.authority()))
    except (AgentError, OSError) as error:
        return Check("clock", WARNING, f"the hub does not tell its time: {error}", "update the hub, or reach it first")
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the hub's"
    if abs(ahead) <= _CLOCK_SECONDS:
        return Check("clock", OK, found)
    result = FAILED if abs(ahead) > _BAD_CLOCK_SECONDS else WARNING
    return Check(
        "clock", result, found, "set the clock: timedatectl set-ntp true; certificates and signatures depend on it"
    )


async def _seconds_ahead(hub: str, authority: str) -> float:
    from milonga_agent.hub import Enroller

    connection = Enroller(hub, authority)
    try:
        before = time.time()
        told = await connection.time()
        return (before + time.time()) / 2.0 - told
    finally:
        await connection.close()


def _certificate(store: Store) -> Check:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(store.certificate_path.read_bytes())
    except (OSError, ValueError) as error:
        return Check("certificate", FAILED, f"cannot be read: {error}", "join again: milonga-agent enrol --help")
    ends = certificate.not_valid_after_utc
    left = ends.timestamp() - time.time()
    found = f"ends {ends:%Y-%m-%d %H:%M} UTC"
    if left <= 0:
        return Check(
            "certificate", FAILED, f"ended {ends:%Y-%m-%d %H:%M} UTC",
            "start the agent, which asks for a new one; where the hub refuses: milonga-agent enrol --join-token TOKEN",
        )  # fmt: skip
    if left < _DAY_SECONDS:
        return Check("certificate", WARNING, found, "the agent renews it while it is connected: see that it runs")
    return Check("certificate", OK, found)


def _machine(folder: Path) -> Iterator[Check]:
    yield _disk(folder)
    memory = psutil.virtual_memory().available
    low = "end other programs, or limit the model: milonga-agent run --memory-mb N"
    yield Check(
        "memory",
        *((WARNING, f"{_size(memory)} free", low) if memory < _LOW_MEMORY_BYTES else (OK, f"{_size(memory)} free")),
    )
    engines = [
        f"{each.name} {each.version}"
        for each in probe(Limits(threads=default_threads()), folder=_existing(folder)).engines
    ]
    if engines:
        yield Check("engines", OK, ", ".join(engines))
    else:
        yield Check("engines", FAILED, "none", "install one: pip install 'milonga-agent[onnxruntime]'")
    yield from _plugins()
    yield _temperature()
    yield _running(folder)


def _plugins() -> Iterator[Check]:
    """Load what plug-ins bring, their runtimes too: the agent does so only where a model needs one."""
    from milonga_agent.runtimes import kind_of

    for plugin in plugged_engines().plugins:
        about, problem = f"{plugin.name} of {plugin.distribution} {plugin.version}", plugin.problem
        if not problem:
            try:
                kind_of(plugin.name)
            except AgentError as error:
                problem = str(error)
        if problem:
            mend = f"update or uninstall {plugin.distribution}; the agent does without it"
            yield Check("plug-in", WARNING, f"{about} is left out: {problem}", mend)
        else:
            yield Check("plug-in", OK, about)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(str(_existing(folder))).free
    found = f"{_size(free)} free at {folder}"
    if folder.exists() and not os.access(str(folder), os.W_OK):
        return Check(
            "disk",
            FAILED,
            f"{folder} cannot be written",
            "run this as the user that the agent runs as, or mend the rights",
        )
    if free < _LOW_DISK_BYTES:
        result = FAILED if free < _NO_DISK_BYTES else WARNING
        return Check("disk", result, found, "free some space: a new model needs room beside the old one")
    return Check("disk", OK, found)


def _temperature() -> Check:
    celsius = temperature_celsius()
    if celsius is None:
        return Check("temperature", OK, "no sensor")
    if celsius < _WARM_CELSIUS:
        return Check("temperature", OK, f"{celsius:.0f} °C")
    result = FAILED if celsius >= _HOT_CELSIUS else WARNING
    return Check("temperature", result, f"{celsius:.0f} °C", "cool it: hot processors slow themselves down")


def _running(folder: Path) -> Check:
    # Looked up, not taken: an agent that starts at this moment needs it.
    try:
        inode = str((folder / "agent.lock").stat().st_ino)
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        inode, locks = "", []
    if any(f":{inode} " in line for line in locks if inode):
        return Check("agent", OK, "runs" + _serving(folder))
    return Check("agent", WARNING, "does not run", "start it: systemctl start milonga-agent, or milonga-agent run")


def _serving(folder: Path) -> str:
    try:
        active = json.loads((folder / "state.json").read_text(encoding="utf-8"))["active"]["model_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" and serves {active}" if active else ""


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.exists())


def _port(address: str) -> int:
    try:
        return int(address.rpartition(":")[2])
    except ValueError as error:
        raise AgentError(f"{address!r} is no address of a hub; write HOST:PORT") from error


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
