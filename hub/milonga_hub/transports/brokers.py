"""Which MQTT broker a hub uses: its own, mosquitto beside it, or one that somebody else runs."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from milonga_hub.authority import Authority, Presented
from milonga_hub.devices.models import Device
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.settings import Settings
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.transports import mosquitto
from milonga_hub.transports.mosquitto import Certificates, Mosquitto
from milonga_hub.transports.mqtt import EmbeddedBroker

AUTO, EMBEDDED, MOSQUITTO = "auto", "embedded", "mosquitto"


class Broker(Protocol):
    """`endpoint = await broker.start(host, port)`: where the hub connects to ... `await broker.stop()`."""

    name: str

    async def start(self, host: str, port: int, names: Sequence[str]) -> BrokerEndpoint: ...

    def disconnect(self, device: str) -> None:
        """Let the device in no more where it is shut out, and end its connections. May be called from any thread."""

    async def stop(self) -> None: ...


@dataclass(frozen=True)
class Choice:
    """A broker, and why it was chosen, for people."""

    broker: Broker
    why: str


class ExternalBroker:
    """A broker that somebody else runs: the hub is one of its clients, and it keeps devices apart by what it was told."""

    def __init__(self, endpoint: BrokerEndpoint, warn: Callable[[str], None]) -> None:
        self.name = f"{endpoint.host}:{endpoint.port}"
        self._endpoint = endpoint
        self._warn = warn

    async def start(self, host: str, port: int, names: Sequence[str]) -> BrokerEndpoint:
        return self._endpoint

    def disconnect(self, device: str) -> None:
        self._warn(device)

    async def stop(self) -> None:
        pass


def chosen(
    settings: Settings,
    authority: Authority,
    authenticate: Callable[[Presented], Device],
    certificates: Certificates,
    warn: Callable[[str], None],
    find: Callable[[], Path | None] = mosquitto.installed,
) -> Choice:
    """Return the broker that the setting names. `warn` hears of devices that a foreign broker has to shut out.

    Raises FailedPrecondition where mosquitto is wanted and missing, InvalidInput for what is no broker.
    """
    wanted = settings.broker
    if "://" in wanted:
        return Choice(ExternalBroker(external(settings, authority), warn), "it was named by --broker")
    if wanted not in (AUTO, EMBEDDED, MOSQUITTO):
        raise InvalidInput(
            f"--broker {wanted!r} is not a broker; write auto, embedded, mosquitto, or mqtts://broker.example:8883"
        )
    program = None if wanted == EMBEDDED else find()
    if program is not None:
        why = "it was named by --broker" if wanted == MOSQUITTO else f"it is installed ({program})"
        folder = settings.data_dir / "mosquitto"
        return Choice(Mosquitto(program, folder, authority, certificates), why)
    if wanted == MOSQUITTO:
        raise FailedPrecondition(
            "mosquitto 2.0 or newer is not installed; install it (Debian: apt install mosquitto), or: --broker embedded"
        )
    why = "it was named by --broker" if wanted == EMBEDDED else "mosquitto 2.0 or newer is not installed"
    return Choice(EmbeddedBroker(authority, authenticate), why)


def external(settings: Settings, authority: Authority) -> BrokerEndpoint:
    """Return a foreign broker's endpoint. With TLS the hub shows a certificate of its own authority, whichever the broker's is of."""
    tls: ssl.SSLContext | None = None
    if settings.broker.startswith("mqtts://"):
        tls, _ = authority.own_client()
        if settings.broker_ca is not None:
            try:
                tls.load_verify_locations(str(settings.broker_ca))
            except (OSError, ssl.SSLError) as error:
                raise InvalidInput(f"--broker-ca {settings.broker_ca} cannot be read: {error}") from error
            tls.check_hostname = True
    return BrokerEndpoint.of_url(settings.broker, tls)


def told_to_devices(settings: Settings, endpoint: BrokerEndpoint) -> tuple[str, int]:
    """Return host and port at which devices reach the broker."""
    if not settings.broker_address:
        return endpoint.host, endpoint.port
    host, _, port = settings.broker_address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidInput(f"--broker-address {settings.broker_address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
