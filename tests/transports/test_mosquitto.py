"""mosquitto run by the hub: the same contract as the embedded broker, and what a program of its own may do besides."""

from __future__ import annotations

import os
import signal
import socket
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from milonga_hub.devices.models import IssuedCertificate
from milonga_hub.devices.service import DeviceService
from milonga_hub.errors import FailedPrecondition
from milonga_hub.transports.brokers import Broker
from milonga_hub.transports.mosquitto import Mosquitto, installed

from tests.transports.broker_contract import BrokerContract, Fleet, fleet, heard_until, said
from tests.transports.clients import PATIENCE_SECONDS, payload

PROGRAM = installed()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto 2.0 or newer is not installed")


def make(devices: DeviceService, folder: Path) -> Broker:
    assert PROGRAM is not None
    return Mosquitto(PROGRAM, folder / "mosquitto", devices.authority, devices.certificates)


def mosquitto_of(here: Fleet) -> Mosquitto:
    assert isinstance(here.broker, Mosquitto)
    return here.broker


class TestMosquitto(BrokerContract):
    make = staticmethod(make)


def test_what_was_acknowledged_before_the_broker_was_killed_is_kept_and_the_rest_comes_again(tmp_path: Path) -> None:
    with fleet(tmp_path, make) as here, here.device("pi-1") as pi:
        pi.ready()
        for sequence in range(300):
            pi.client.publish("milonga/v1/pi-1/telemetry", payload(sequence), qos=1)
        before = set(pi.acknowledged(20))
        pid = mosquitto_of(here).pid
        assert pid is not None
        pi.client.on_connect = lambda *_: pi.client.subscribe("milonga/v1/pi-1/ack", qos=1)
        with said("milonga_hub.transports.mosquitto", "starting it again") as restarting:
            os.kill(pid, signal.SIGKILL)
            assert restarting.wait(PATIENCE_SECONDS)
        heard = before | heard_until(pi, [n for n in range(300) if n not in before])
        assert heard >= set(range(300))
        assert here.stored() == [("pi-1", n) for n in range(300)]


def test_a_device_with_a_certificate_from_before_the_list_is_let_in_until_it_is_shut_out(tmp_path: Path) -> None:
    with fleet(tmp_path, make) as here:
        here.enrol("pi-1")
        with here.database.session() as session:
            session.connection().execute(sa.delete(IssuedCertificate))
        here.start_again()
        with here.device("pi-1", here.authority.stand_in("pi-1", timedelta(days=1), earlier=True)) as pi:
            pi.ready().publish(payload(1))
            assert pi.acknowledged(1) == [1]
            here.devices.revoke("pi-1")
            pi.ended.get(timeout=PATIENCE_SECONDS)
            # It may come back until its certificate ends; nothing that it says is heard.
            assert pi.admitted()
            pi.publish(payload(2))
        with here.device("pi-2") as other:
            other.ready().publish(payload(1, "pi-2"))
            assert other.acknowledged(1) == [1]
        assert here.stored() == [("pi-1", 1), ("pi-2", 1)]


def test_it_ends_with_the_hub_and_leaves_no_key_behind(tmp_path: Path) -> None:
    with fleet(tmp_path, make) as here:
        assert (tmp_path / "mosquitto" / "server.key").stat().st_mode & 0o077 == 0
        pid = mosquitto_of(here).pid
        assert pid is not None
    assert not psutil.pid_exists(pid)
    assert not (tmp_path / "mosquitto" / "server.key").exists()


def test_a_port_in_use_is_named_with_the_flag_that_changes_it(tmp_path: Path) -> None:
    with fleet(tmp_path, make) as here, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        here.loop.run(here.broker.stop())
        port = taken.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=rf"{port}.*--mqtt-port"):
            here.start(port)
        here.start(here.endpoint.port)
