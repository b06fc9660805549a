"""Which broker a hub takes, and what it says where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from milonga_hub.authority import Authority
from milonga_hub.db import Database
from milonga_hub.devices.certificates import Certificates
from milonga_hub.devices.models import Device
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.settings import Settings
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.transports.brokers import Choice, chosen, external, told_to_devices

from tests.databases import database_url

PROGRAM = Path("/usr/sbin/mosquitto")


def choose(folder: Path, found: Path | None, **settings: Any) -> Choice:
    return chosen(
        Settings(data_dir=folder, **settings),
        Authority(folder / "authority"),
        lambda shown: Device(name=shown.device, device_type=""),
        Certificates(Database(database_url(folder / "milonga.db"))),
        lambda device: None,
        lambda: found,
    )


def test_auto_takes_mosquitto_where_it_is_installed_and_else_the_embedded_one(tmp_path: Path) -> None:
    with_it, without = choose(tmp_path, PROGRAM, broker="auto"), choose(tmp_path, None, broker="auto")
    assert (with_it.broker.name, with_it.why) == ("mosquitto", "it is installed (/usr/sbin/mosquitto)")
    assert (without.broker.name, without.why) == ("embedded", "mosquitto 2.0 or newer is not installed")


def test_a_broker_that_is_named_is_taken_or_missed(tmp_path: Path) -> None:
    assert choose(tmp_path, PROGRAM, broker="embedded").broker.name == "embedded"
    assert choose(tmp_path, PROGRAM, broker="mqtts://broker.example").broker.name == "broker.example:8883"
    with pytest.raises(FailedPrecondition, match="apt install mosquitto"):
        choose(tmp_path, None, broker="mosquitto")
    with pytest.raises(InvalidInput, match="auto, embedded, mosquitto, or mqtts://"):
        choose(tmp_path, PROGRAM, broker="rabbit")


def test_devices_are_told_the_address_that_is_theirs() -> None:
    endpoint = BrokerEndpoint("127.0.0.1", 1883)
    assert told_to_devices(Settings(), endpoint) == ("127.0.0.1", 1883)
    assert told_to_devices(Settings(broker_address="[::1]:8883"), endpoint) == ("::1", 8883)
    with pytest.raises(InvalidInput, match="HOST:PORT"):
        told_to_devices(Settings(broker_address="broker.example"), endpoint)


def test_the_authority_of_a_foreign_broker_is_believed_for_its_own_name_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    foreign = tmp_path / "foreign.pem"
    foreign.write_bytes(Authority(tmp_path / "other").certificate)
    there = external(Settings(broker="mqtts://broker.example", broker_ca=foreign), authority)
    assert there.tls is not None
    assert there.tls.check_hostname
    foreign.write_text("no certificate")
    with pytest.raises(InvalidInput, match="--broker-ca"):
        external(Settings(broker="mqtts://broker.example", broker_ca=foreign), authority)
