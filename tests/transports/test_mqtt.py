"""The embedded broker and the intake behind it, with real clients on real sockets."""

from __future__ import annotations

import queue
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from milonga.v1 import telemetry_pb2
from milonga_hub.authority import Presented
from milonga_hub.bridge import to_proto
from milonga_hub.db import Database
from milonga_hub.devices.models import Device as Devices
from milonga_hub.devices.service import DeviceService
from milonga_hub.errors import FailedPrecondition, InvalidInput, Unauthenticated
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.telemetry.intake import TelemetryIntake
from milonga_hub.telemetry.messages import parse_window
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.transports import mosquitto
from milonga_hub.transports.brokers import Broker
from milonga_hub.transports.mqtt import EmbeddedBroker

from tests.certificates import Key, Tls
from tests.databases import database_url
from tests.telemetry.windows import window
from tests.transports.broker_contract import BrokerContract
from tests.transports.clients import PATIENCE_SECONDS, Device, Loop, connected, context_of, payload

FOLDER = tempfile.TemporaryDirectory()
TLS = Tls(Path(FOLDER.name))
KEYS = {"pi-1": Key(), "pi-2": Key()}


def authenticate(shown: Presented) -> Devices:
    if shown.device not in KEYS or KEYS[shown.device].fingerprint != shown.key_fingerprint:
        raise Unauthenticated(f"unknown device or another key: {shown.device!r}")
    return Devices(name=shown.device, device_type="")


def context(name: str, key: Key | None = None, lifetime: timedelta = timedelta(days=1)) -> ssl.SSLContext:
    key = key or KEYS[name]
    return context_of(TLS.authority, key, TLS.authority.issue(key.request(), name, lifetime).certificate)


@contextmanager
def device(endpoint: BrokerEndpoint, name: str, key: Key | None = None, **values: Any) -> Iterator[Device]:
    with connected(endpoint, name, context(name, key), **values) as client:
        yield client


def new_broker() -> EmbeddedBroker:
    return EmbeddedBroker(TLS.authority, authenticate)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return database


def service(database: Database) -> TelemetryService:
    return TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy())


def stored(database: Database) -> list[int]:
    return sorted(row.sequence for row in service(database).query(page_size=1000)[0])


@contextmanager
def hub(
    loop: Loop, store: Any, port: int = 0, examine: Any = lambda window: window
) -> Iterator[tuple[BrokerEndpoint, TelemetryIntake]]:
    broker = new_broker()
    endpoint = loop.run(broker.start("127.0.0.1", port))
    intake = TelemetryIntake(store, examine)
    loop.run(intake.start(endpoint))
    try:
        yield endpoint, intake
    finally:
        loop.run(intake.stop())
        loop.run(broker.stop())


class TestEmbeddedBroker(BrokerContract):
    @staticmethod
    def make(devices: DeviceService, folder: Path) -> Broker:
        return EmbeddedBroker(devices.authority, devices.authenticate)


def test_windows_are_stored_and_acknowledged(loop: Loop, database: Database) -> None:
    with hub(loop, service(database).store) as (endpoint, _), device(endpoint, "pi-1") as pi:
        pi.ready()
        for sequence in range(20):
            pi.publish(payload(sequence))
        assert pi.acknowledged(20) == list(range(20))
    assert stored(database) == list(range(20))


def test_nothing_is_acknowledged_before_it_is_committed(loop: Loop, database: Database) -> None:
    release, asked = threading.Event(), threading.Event()
    keep = service(database)

    def slow(windows: Sequence[TelemetryWindow]) -> object:
        asked.set()
        assert release.wait(PATIENCE_SECONDS)
        return keep.store(windows)

    with hub(loop, slow) as (endpoint, _), device(endpoint, "pi-1") as pi:
        pi.ready().publish(payload(1))
        assert asked.wait(PATIENCE_SECONDS)
        with pytest.raises(queue.Empty):
            pi.heard.get(timeout=0.2)
        assert stored(database) == []
        release.set()
        assert pi.acknowledged(1) == [1]
        assert stored(database) == [1]


def test_what_is_not_stored_is_not_acknowledged_and_does_not_hold_up_the_rest(loop: Loop, database: Database) -> None:
    keep = service(database)

    def picky(windows: Sequence[TelemetryWindow]) -> object:
        if any(window.sequence == 3 for window in windows):
            raise ValueError("the database does not like this one")
        return keep.store(windows)

    with hub(loop, picky) as (endpoint, _), device(endpoint, "pi-1") as pi:
        pi.ready()
        for sequence in range(6):
            pi.publish(payload(sequence))
        assert pi.acknowledged(5) == [0, 1, 2, 4, 5]
        assert pi.heard.empty()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_hub_that_dies_midway_loses_nothing_acknowledged_and_stores_nothing_twice(
    loop: Loop, database: Database
) -> None:
    committed = threading.Event()
    never = threading.Event()
    keep = service(database)

    def dying(windows: Sequence[TelemetryWindow]) -> object:
        keep.store(windows)
        committed.set()
        # The commit is on disk, but the hub does not get as far as telling the device.
        never.wait(PATIENCE_SECONDS)
        raise SystemExit

    broker = new_broker()
    endpoint = loop.run(broker.start())
    intake = TelemetryIntake(dying)
    loop.run(intake.start(endpoint))
    with device(endpoint, "pi-1") as pi:
        pi.ready().publish(payload(0))
        assert committed.wait(PATIENCE_SECONDS)
        loop.run(broker.stop())
        never.set()
        assert pi.heard.empty()
        pi.answered.queue.clear()
        with hub(loop, keep.store, endpoint.port):
            pi.ready()  # paho reconnects by itself
            for sequence in range(5):
                pi.publish(payload(sequence))
            assert pi.acknowledged(5) == list(range(5))
    loop.run(intake.stop())
    assert stored(database) == list(range(5))


@contextmanager
def hub_process(path: Path, kind: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "tests.transports.hub_process", str(path), str(port), FOLDER.name, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


NEEDS_MOSQUITTO = pytest.mark.skipif(mosquitto.installed() is None, reason="mosquitto 2.0 or newer is not installed")


@pytest.mark.parametrize("kind", ["embedded", pytest.param("mosquitto", marks=NEEDS_MOSQUITTO)])
def test_what_was_acknowledged_before_a_kill_is_there_after_it_and_only_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "killed.db"
    unacknowledged = set(range(200))
    with hub_process(path, kind) as (process, port):
        with device(BrokerEndpoint("127.0.0.1", port), "pi-1") as pi:
            pi.ready()
            for sequence in range(200):
                pi.client.publish("milonga/v1/pi-1/telemetry", payload(sequence), qos=1)
            unacknowledged -= set(pi.acknowledged(40))
            process.kill()
            process.wait()
            pi.client.loop_stop()
            unacknowledged -= set(pi.heard.queue)
        acknowledged = set(range(200)) - unacknowledged
        assert acknowledged <= set(stored(Database(database_url(path))))
        assert unacknowledged
    with hub_process(path, kind, port) as (_, port), device(BrokerEndpoint("127.0.0.1", port), "pi-1") as pi:
        pi.ready()
        for sequence in sorted(unacknowledged):
            pi.publish(payload(sequence))
        assert set(pi.acknowledged(len(unacknowledged))) == unacknowledged
    assert stored(Database(database_url(path))) == list(range(200))


def test_what_has_come_in_when_the_hub_stops_is_still_stored(loop: Loop, database: Database) -> None:
    with hub(loop, service(database).store) as (_, intake):
        intake._queue([window(7)])
    assert stored(database) == [7]


@pytest.mark.parametrize("name", ["pi-1", "stranger", "milonga_hub", "milonga-hub"])
def test_a_certificate_with_another_key_is_refused(
    loop: Loop, database: Database, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with hub(loop, service(database).store) as (endpoint, _), device(endpoint, name, key=Key()) as client:
        assert not client.admitted()
    assert "MQTT: refused 127.0.0.1" in caplog.text


def test_another_key_does_not_end_the_session_of_the_device(loop: Loop, database: Database) -> None:
    with hub(loop, service(database).store) as (endpoint, _), device(endpoint, "pi-1") as pi:
        pi.ready()
        with device(endpoint, "pi-1", key=Key()) as thief, device(endpoint, "pi-2", client_id="pi-1") as other:
            assert not thief.admitted()
            assert other.admitted()
        pi.publish(payload(1))
        assert pi.acknowledged(1) == [1]
        assert pi.answered.empty()  # it never had to connect again


def test_a_device_cannot_leave_a_last_will_to_another(loop: Loop, database: Database) -> None:
    with hub(loop, service(database).store) as (endpoint, _):
        with device(endpoint, "pi-1", will="milonga/v1/pi-2/telemetry") as pi:
            assert not pi.admitted()
        with device(endpoint, "pi-1", will="milonga/v1/pi-1/status") as pi:
            assert pi.admitted()


@pytest.mark.parametrize("topic", ["milonga/v1/pi-2/ack", "milonga/v1/+/ack", "#", "milonga/v1/pi-1/telemetry"])
def test_a_device_hears_only_its_own_acknowledgements(loop: Loop, database: Database, topic: str) -> None:
    with hub(loop, service(database).store) as (endpoint, _), device(endpoint, "pi-1") as pi:
        assert pi.admitted()
        assert not pi.subscribe(topic)


def test_malformed_messages_are_dropped_and_the_next_ones_are_read(
    loop: Loop, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with hub(loop, service(database).store) as (endpoint, intake), device(endpoint, "pi-1") as pi:
        pi.ready()
        for junk in (
            b"\xff\xff\xff",
            b"",
            telemetry_pb2.TelemetryWindow(device="pi-1", boot_id="b").SerializeToString(),
        ):
            pi.publish(junk)
        pi.publish(payload(5))
        # The third has no times, and would have none if it came again: its device may let go of it.
        assert pi.acknowledged(2) == [0, 5]
        refused = intake.refusals.of("pi-1")
        assert refused is not None and refused.count == 3
    assert "refused of pi-1: a message could not be read" in caplog.text


def test_a_window_that_cannot_be_true_is_refused_counted_and_let_go_of(loop: Loop, database: Database) -> None:
    kept = service(database)
    with hub(loop, kept.store, examine=kept.examine) as (endpoint, intake), device(endpoint, "pi-1") as pi:
        pi.ready()
        pi.publish(payload(4, request_count=-1))
        assert pi.acknowledged(1) == [4]
        pi.publish(payload(5))
        assert pi.acknowledged(1) == [5]
        refused = intake.refusals.of("pi-1")
        assert refused is not None and "request_count is -1" in refused.reason
    assert [one.sequence for one in kept.query(device="pi-1")[0]] == [5]


def test_sessions_of_clients_that_left_are_not_kept(loop: Loop, database: Database) -> None:
    broker = new_broker()
    endpoint = loop.run(broker.start())
    for _ in range(5):
        with device(endpoint, "pi-1") as pi:
            pi.ready()
    assert broker._broker is not None
    assert len(broker._broker._sessions) <= 1
    assert sum(len(subscribers) for subscribers in broker._broker._subscriptions.values()) <= 1
    loop.run(broker.stop())


def test_a_port_in_use_is_named_with_the_flag_that_changes_it(loop: Loop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=rf"{port}.*--mqtt-port"):
            loop.run(new_broker().start("127.0.0.1", port))


def test_a_broker_that_does_not_answer_is_named(loop: Loop) -> None:
    with pytest.raises(FailedPrecondition, match="did not answer"):
        loop.run(TelemetryIntake(lambda windows: None).start(BrokerEndpoint("127.0.0.1", 9), timeout_seconds=0.1))


def test_a_broker_of_its_own_is_given_as_a_url() -> None:
    endpoint = BrokerEndpoint.of_url("mqtt://hub:p%40ss@broker.example:2883")
    assert endpoint == BrokerEndpoint("broker.example", 2883, "hub", "p@ss")
    assert BrokerEndpoint.of_url("mqtts://broker.example").port == 8883
    for wrong in ("http://broker", "mqtt://", "mqtts://broker:port", "mqtt://hub:secret@"):
        with pytest.raises(InvalidInput, match="mqtts://user:password@host") as raised:
            BrokerEndpoint.of_url(wrong)
        assert "secret" not in str(raised.value)


def test_a_window_without_requests_may_say_not_a_number() -> None:
    message = to_proto(window(1), telemetry_pb2.TelemetryWindow)
    message.latency_ms.p50 = float("nan")
    message.temperature_celsius = float("nan")
    parsed = parse_window("milonga/v1/pi-1/telemetry", message.SerializeToString())
    assert parsed.latency_ms is None
    assert parsed.temperature_celsius is None
