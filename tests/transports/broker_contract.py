"""What every broker that the hub runs keeps to, with a real list of devices behind it."""

from __future__ import annotations

import logging
import queue
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.authority import Authority
from milonga_hub.db import Database
from milonga_hub.devices.models import Inventory
from milonga_hub.devices.service import DeviceService
from milonga_hub.devices.values import Enrolment
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.settings import Settings
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.telemetry.intake import TelemetryIntake
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.transports.brokers import Broker

from tests.certificates import Key
from tests.databases import database_url
from tests.transports.clients import PATIENCE_SECONDS, Device, Loop, connected, context_of, payload

Make = Callable[[DeviceService, Path], Broker]


class Fleet:
    """A hub's devices and telemetry behind one broker."""

    def __init__(self, loop: Loop, folder: Path, make: Make) -> None:
        self.loop = loop
        self.database = Database(database_url(folder / "milonga.db"))
        self.database.create_tables()
        self.devices = DeviceService(self.database, EventBus(), Settings(data_dir=folder))
        self.authority = self.devices.authority
        self.telemetry = TelemetryService(self.database, EventBus(), lambda bundle: None, lambda project: DriftPolicy())
        self.broker = make(self.devices, folder)
        self.devices.on_shut_out(self.broker.disconnect)
        self.intake = TelemetryIntake(self.telemetry.store, is_shut_out=self.devices.is_shut_out)
        self.keys: dict[str, Key] = {}
        self.endpoint = BrokerEndpoint("", 0)

    def start(self, port: int = 0) -> None:
        self.endpoint = self.loop.run(self.broker.start("127.0.0.1", port, ()))

    def start_again(self) -> None:
        """Start the broker anew, on its port, and wait until the hub reads from it."""
        assert self.intake._subscriber is not None
        self.intake._subscriber._listening.clear()
        self.loop.run(self.broker.stop())
        self.start(self.endpoint.port)
        assert self.intake._subscriber.wait(PATIENCE_SECONDS)

    def enrol(self, name: str, key: Key | None = None) -> ssl.SSLContext:
        """Return what the device shows from then on."""
        self.keys[name] = key or Key()
        _, secret = self.devices.create_join_token({})
        request = self.keys[name].request()
        identity = self.devices.enrol(Enrolment(secret, name, Inventory(), "1", False, {}, request))
        return context_of(self.authority, self.keys[name], identity.certificate)

    def device(self, name: str, tls: ssl.SSLContext | None = None, **values: Any) -> Any:
        return connected(self.endpoint, name, tls or self.enrol(name), **values)

    def stored(self) -> list[tuple[str, int]]:
        return sorted((row.device, row.sequence) for row in self.telemetry.query(page_size=1000)[0])


@contextmanager
def fleet(folder: Path, make: Make) -> Iterator[Fleet]:
    loop = Loop()
    here = Fleet(loop, folder, make)
    here.start()
    loop.run(here.intake.start(here.endpoint))
    try:
        yield here
    finally:
        loop.run(here.intake.stop())
        loop.run(here.broker.stop())
        loop.close()


@contextmanager
def said(logger: str, words: str) -> Iterator[threading.Event]:
    """Set the event when something with these words is logged; a broker in a process of its own says it a moment later."""
    heard = threading.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage().lower():
                heard.set()

    ear = Ear()
    logging.getLogger(logger).addHandler(ear)
    try:
        yield heard
    finally:
        logging.getLogger(logger).removeHandler(ear)


class BrokerContract:
    """Each implementation gives `make`."""

    make: Make

    @pytest.fixture
    def here(self, tmp_path: Path) -> Iterator[Fleet]:
        with fleet(tmp_path, self.make) as here:
            yield here

    def test_each_device_hears_of_its_own_windows_and_of_no_others(self, here: Fleet) -> None:
        with here.device("pi-1") as one, here.device("pi-2") as two:
            one.ready()
            for topic in ("#", "milonga/v1/+/ack", "milonga/v1/pi-2/ack", "milonga/v1/pi-2/telemetry"):
                one.subscribe(topic)
            two.ready().publish(payload(2, "pi-2"))
            assert two.acknowledged(1) == [2]
            one.publish(payload(1))
            assert one.acknowledged(1) == [1]
            assert set(one.heard.queue) <= {1}  # Once for each filter that matches, where the broker does so.
        assert here.stored() == [("pi-1", 1), ("pi-2", 2)]

    def test_a_device_cannot_publish_under_the_topic_of_another(self, here: Fleet) -> None:
        with here.device("pi-1") as pi:
            pi.ready()
            pi.publish(payload(1, "pi-2"), "milonga/v1/pi-2/telemetry")
            pi.publish(payload(2, "pi-2"))
            pi.publish(payload(4), "milonga/v1/pi-1/ack")
            pi.publish(payload(3))
            assert pi.acknowledged(1) == [3]
        assert here.stored() == [("pi-1", 3)]

    def test_a_device_cannot_leave_a_last_will_to_another(self, here: Fleet) -> None:
        with here.device("pi-1", will="milonga/v1/pi-2/telemetry", last_words=payload(1, "pi-2")) as pi:
            if pi.admitted():
                pi.drop()
        with here.device("pi-2") as other:
            other.ready().publish(payload(2, "pi-2"))
            assert other.acknowledged(1) == [2]
        assert here.stored() == [("pi-2", 2)]

    @pytest.mark.parametrize("kind", ["no certificate", "another authority", "expired"])
    def test_who_shows_no_good_certificate_is_refused_in_the_handshake(
        self, here: Fleet, kind: str, tmp_path: Path
    ) -> None:
        authority = Authority(tmp_path / "other") if kind == "another authority" else here.authority
        key = None if kind == "no certificate" else Key()
        lifetime = timedelta(days=-1 if kind == "expired" else 1)
        certificate = "" if key is None else authority.issue(key.request(), "pi-1", lifetime).certificate
        tls = context_of(here.authority, key, certificate, authority)
        with said("milonga_hub.transports", "certificate") as heard, here.device("pi-1", tls) as client:
            client.ended.get(timeout=PATIENCE_SECONDS)
            assert client.answered.empty()
            assert heard.wait(PATIENCE_SECONDS)

    def test_a_device_that_is_shut_out_is_disconnected_at_once_and_not_let_in_again(self, here: Fleet) -> None:
        tls = here.enrol("pi-1")
        with here.device("pi-1", tls) as pi, here.device("pi-2") as other:
            pi.ready()
            other.ready()
            here.devices.revoke("pi-1")
            pi.ended.get(timeout=PATIENCE_SECONDS)
            with here.device("pi-1", tls, client_id="again") as again:
                assert not again.let_in()
            other.publish(payload(1, "pi-2"))
            assert other.acknowledged(1) == [1]
            assert other.ended.empty()

    def test_a_second_device_is_shut_out_as_well_as_the_first(self, here: Fleet) -> None:
        """Within the second: of two lists of revoked certificates OpenSSL keeps to the one that is newer by its date."""
        shown = {name: here.enrol(name) for name in ("pi-1", "pi-2", "pi-3")}
        with here.device("pi-3", shown["pi-3"]) as last:
            last.ready()
            for name in shown:
                here.devices.delete(name)
            last.ended.get(timeout=PATIENCE_SECONDS)
        for name, tls in shown.items():
            with here.device(name, tls) as again:
                assert not again.let_in()

    def test_the_old_certificate_is_of_no_use_once_the_device_has_another_key(self, here: Fleet) -> None:
        old = here.enrol("pi-1")
        with here.device("pi-1", old) as pi:
            pi.ready()
            here.devices.delete("pi-1")
            pi.ended.get(timeout=PATIENCE_SECONDS)
        with here.device("pi-1") as pi:
            pi.ready()
            with here.device("pi-1", old) as thief:
                assert not thief.let_in()
            pi.publish(payload(1))
            assert pi.acknowledged(1) == [1]

    def test_a_device_cannot_end_the_session_of_another_by_its_client_id(self, here: Fleet) -> None:
        with here.device("pi-1") as pi:
            pi.ready()
            with here.device("pi-2", client_id="pi-1") as other:
                assert other.admitted()
            pi.publish(payload(1))
            assert pi.acknowledged(1) == [1]
            assert pi.answered.empty()  # It never had to connect again.

    def test_an_oversized_message_ends_its_connection_and_no_other(self, here: Fleet) -> None:
        with here.device("pi-1") as pi:
            pi.ready()
            with here.device("pi-2") as flood:
                flood.ready()
                flood.client.publish("milonga/v1/pi-2/telemetry", bytes(2 << 20), qos=1)
                flood.ended.get(timeout=PATIENCE_SECONDS)
            pi.publish(payload(1))
            assert pi.acknowledged(1) == [1]
            assert pi.ended.empty()

    def test_the_intake_comes_back_when_the_broker_does(self, here: Fleet) -> None:
        here.start_again()
        with here.device("pi-1") as pi:
            pi.ready().publish(payload(1))
            assert pi.acknowledged(1) == [1]


def heard_until(device: Device, wanted: Sequence[int]) -> set[int]:
    """Send windows until all are acknowledged, as an agent does: again on each new connection."""
    heard: set[int] = set()
    while missing := set(wanted) - heard:
        try:
            heard.add(device.heard.get(timeout=0.5))
        except queue.Empty:
            for sequence in sorted(missing):
                device.client.publish(f"milonga/v1/{device.name}/telemetry", payload(sequence, device.name), qos=1)
    return heard
