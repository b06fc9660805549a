"""A broker that runs without the hub, from the files that `milonga broker config` writes."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
from pathlib import Path

import pytest
from milonga_hub.authority import Authority
from milonga_hub.cli import main
from milonga_hub.devices.service import DeviceService
from milonga_hub.settings import Settings
from milonga_hub.transports.brokers import Broker, chosen
from milonga_hub.transports.mosquitto import installed

from tests.databases import database_setting
from tests.transports.broker_contract import Fleet
from tests.transports.clients import Loop, payload

PROGRAM = installed()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto 2.0 or newer is not installed")


def test_a_broker_of_the_written_files_serves_the_hub_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILONGA_DATABASE_URL", database_setting(tmp_path))
    assert PROGRAM is not None
    loop = Loop()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Authority(tmp_path / "authority")
    options = ["--data-dir", str(tmp_path)]
    written = ["--folder", str(tmp_path / "elsewhere"), "--port", str(port), "--name", "broker.example", "--json"]
    assert main(["broker", "config", "mosquitto", *written, *options]) == 0
    assert "revoked.pem" in json.loads(capfd.readouterr().out)["files"]
    config = tmp_path / "elsewhere" / "mosquitto.conf"
    # Here as root, who would become a user without rights.
    config.write_text(f"user {getpass.getuser()}\n" + config.read_text())
    with subprocess.Popen([PROGRAM, "-c", config], stderr=subprocess.DEVNULL) as process:
        try:

            def external(devices: DeviceService, folder: Path) -> Broker:
                settings = Settings(data_dir=folder, broker=f"mqtts://127.0.0.1:{port}")
                return chosen(settings, devices.authority, devices.authenticate, devices.certificates, print).broker

            here = Fleet(loop, tmp_path, external)
            here.start()
            loop.run(here.intake.start(here.endpoint))
            with here.device("pi-1") as pi:
                pi.ready().publish(payload(1))
                assert pi.acknowledged(1) == [1]
                here.devices.revoke("pi-1")
                pi.publish(payload(2))
            assert main(["broker", "revoked", *options, "--json"]) == 0
            assert len(json.loads(capfd.readouterr().out.splitlines()[-1])["serials"]) == 1
            loop.run(here.intake.stop())
        finally:
            process.terminate()
    assert here.stored() == [("pi-1", 1)]
    loop.close()
