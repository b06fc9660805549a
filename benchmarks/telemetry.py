"""Telemetry: what a message costs on its way into the database, what idle connections cost, and how soon charts are answered.

Messages are windows of a small classifier, of some 500 bytes, over TLS with a certificate for each device. Counted is the CPU time of broker and
hub together, from the first message until the last is acknowledged and can be asked for; who publishes is not counted. The
peers are mosquitto alone, without TLS and without asking who anybody is (the same messages, QoS 1, to one subscriber), and inserts
one by one through the ORM. MILONGA_BENCH_ROWS says how many windows the questions are asked over (default 1,000,000 of 10,000
devices; 10,000,000 take 12 GB and some ten minutes more; 0 asks none), MILONGA_BENCH_EFFORT how many messages are sent.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil
from milonga.v1 import telemetry_pb2
from milonga_hub.transports.mosquitto import installed

from benchmarks import _telemetry_questions as questions
from benchmarks._telemetry_load import PUBLISHERS, idle_names, names, payloads
from benchmarks.results import Result

_EFFORT = float(os.environ.get("MILONGA_BENCH_EFFORT", "1"))
_MESSAGES = max(10, round(500 * _EFFORT)) * PUBLISHERS
_RAW_MESSAGES = max(100, round(2000 * _EFFORT)) * PUBLISHERS
_ORM_MESSAGES = max(100, round(1000 * _EFFORT))
_IDLE = max(50, round(1000 * min(_EFFORT, 1.0)))
_ROWS = int(os.environ.get("MILONGA_BENCH_ROWS", "1000000"))
_PATIENCE_SECONDS = 300.0
# The goals of the design, as most of CPU time that a message may cost in that of the peer's: 35 % of its rate, 25 times its rate.
_GOAL_RAW, _GOAL_ORM = 1 / 0.35, 1 / 25
_GOAL_MS = 100.0
# An MQTT 3.1.1 CONNECT with a clean session, kept alive for an hour; the client id follows.
_CONNECT = b"\x00\x04MQTT\x04\x02\x0e\x10"


def run() -> list[Result]:
    """Return all claims about telemetry."""
    kinds = ["embedded", *(["mosquitto"] if installed() else [])]
    if len(kinds) == 1:
        _say("mosquitto 2.0 is not installed: what is measured with it is left out")
    raw_us = _raw() if installed() else None
    orm_us = _orm()
    found: list[Result] = []
    for kind in kinds:
        with _hub(kind) as hub:
            idle = hub.kilobytes_per_idle_connection()
            message_us = hub.message_us(_MESSAGES)
        found += [
            Result(
                f"CPU of broker and hub for a message, {kind}", message_us, "us", "mosquitto alone", raw_us, _GOAL_RAW
            ),
            Result(
                f"CPU of broker and hub for a message, {kind}", message_us, "us", "ORM one by one", orm_us, _GOAL_ORM
            ),
            Result(f"memory of 1,000 idle connections (of {_IDLE}), {kind}", idle, "MB", "", None, None),
        ]
        with _hub(kind, drift=True) as hub:
            judged_us = hub.message_us(_MESSAGES)
        found.append(
            Result(f"CPU of broker and hub for a message, judged for drift, {kind}", judged_us, "us", "", None, None)
        )
        _say(f"{kind}, each window judged for drift: {1e6 / judged_us:,.0f} messages per CPU second")
        _say(f"{kind}: {1e6 / message_us:,.0f} messages per CPU second, {idle:.1f} kB for an idle connection")
    if not _ROWS:
        return found
    with tempfile.TemporaryDirectory(prefix="milonga-bench-") as folder:
        for words, p95_ms in questions.measured(Path(folder), _ROWS, _say):
            goal = None if words == questions.ALERTS else 1.0
            found.append(Result(f"p95 of: {words}", p95_ms, "ms", f"100 ms, at {_ROWS:,} rows", _GOAL_MS, goal))
    return found


class _Hub:
    """A hub's telemetry and its broker, as processes whose costs are told."""

    def __init__(self, folder: Path, hub: int, broker: int | None, port: int) -> None:
        self._processes = [psutil.Process(pid) for pid in (hub, broker) if pid]
        self._credentials = folder / "credentials"
        self._port = port

    def _cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def _broker_kilobytes(self) -> float:
        return float(self._processes[-1].memory_full_info().uss) / 1e3

    def _tls(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._credentials / "authority.pem"))
        context.check_hostname = False
        context.load_cert_chain(str(self._credentials / f"{name}.pem"))
        return context

    def kilobytes_per_idle_connection(self) -> float:
        """Return what the broker's process grows by, for connections of as many devices."""
        with ExitStack() as stack:
            for name in names():
                self._idle(stack, name)
            before = self._broker_kilobytes()
            for name in idle_names(_IDLE):
                self._idle(stack, name)
            return (self._broker_kilobytes() - before) / _IDLE

    def _idle(self, stack: ExitStack, name: str) -> None:
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", self._port)))
        connection = stack.enter_context(self._tls(name).wrap_socket(plain))
        client_id = name.encode()
        body = _CONNECT + len(client_id).to_bytes(2, "big") + client_id
        connection.sendall(bytes((0x10, len(body))) + body)
        answer = connection.recv(4)
        assert answer[3] == 0, f"the broker refused an idle client: {answer!r}"

    def message_us(self, count: int) -> float:
        """Return the CPU time of one message on its way, in microseconds."""
        each = count // PUBLISHERS
        made = {name: payloads(name, each) for name in names()}
        clients = [_Publisher(name, self._tls(name), self._port, each) for name in names()]
        before = self._cpu_seconds()
        for client in clients:
            client.send(made[client.name])
        ends = time.monotonic() + _PATIENCE_SECONDS
        while any(client.heard < each for client in clients):
            if time.monotonic() > ends:
                raise TimeoutError(f"only {sum(client.heard for client in clients)} of {count} were acknowledged")
            time.sleep(0.05)
        spent = self._cpu_seconds() - before
        for client in clients:
            client.close()
        return 1e6 * spent / count


class _Publisher:
    """One device that publishes as fast as it may, and counts acknowledgements."""

    def __init__(self, name: str, tls: ssl.SSLContext, port: int, expected: int) -> None:
        self.name, self.heard = name, 0
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name)
        self._client.tls_set_context(tls)
        self._client.max_inflight_messages_set(100)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(f"milonga/v1/{name}/ack", qos=1)
        self._client.loop_start()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self.heard += len(telemetry_pb2.TelemetryAck.FromString(message.payload).sequences)

    def send(self, messages: list[bytes]) -> None:
        for payload in messages:
            self._client.publish(f"milonga/v1/{self.name}/telemetry", payload, qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def _hub(kind: str, *, drift: bool = False) -> Iterator[_Hub]:
    with tempfile.TemporaryDirectory(prefix="milonga-bench-") as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks._telemetry_load",
            "hub",
            folder,
            f"{kind}:{_IDLE}{':drift' if drift else ''}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            try:
                about = json.loads(process.stdout.readline())
                yield _Hub(Path(folder), process.pid, about["broker_pid"], about["port"])
            finally:
                process.terminate()


def _raw() -> float:
    """Return the CPU time of mosquitto alone for a message, in microseconds: QoS 1 in, QoS 1 out to one subscriber."""
    program = installed()
    assert program is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="milonga-bench-") as folder:
        config = Path(folder) / "mosquitto.conf"
        lines = (
            f"listener {port} 127.0.0.1",
            "allow_anonymous true",
            "max_queued_messages 0",
            "max_inflight_messages 0",
        )
        config.write_text("\n".join((*lines, "log_type error", "")))
        with subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for(port)
                return _fanned_out(psutil.Process(process.pid), port)
            finally:
                process.terminate()


def _fanned_out(broker: psutil.Process, port: int) -> float:
    heard = 0

    def count(client: Any, userdata: Any, message: Any) -> None:
        nonlocal heard
        heard += 1

    def client(name: str) -> Any:
        made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name)
        made.max_inflight_messages_set(100)
        made.connect("127.0.0.1", port)
        made.loop_start()
        return made

    subscriber = client("subscriber")
    subscriber.on_message = count
    subscriber.subscribe("milonga/v1/+/telemetry", qos=1)
    publishers = [client(name) for name in names()]
    made = payloads(names()[0], 200)
    before = sum(broker.cpu_times()[:2])
    for number in range(_RAW_MESSAGES):
        publishers[number % PUBLISHERS].publish("milonga/v1/bench/telemetry", made[number % len(made)], qos=1)
    ends = time.monotonic() + _PATIENCE_SECONDS
    while heard < _RAW_MESSAGES and time.monotonic() < ends:
        time.sleep(0.05)
    spent = sum(broker.cpu_times()[:2]) - before
    for each in (subscriber, *publishers):
        each.disconnect()
        each.loop_stop()
    _say(f"mosquitto alone: {heard / spent:,.0f} messages of {len(made[0])} bytes per CPU second")
    return float(1e6 * spent / heard)


def _orm() -> float:
    """Return the CPU time of a window that is inserted by itself, in microseconds."""
    with tempfile.TemporaryDirectory(prefix="milonga-bench-") as folder:
        command = [sys.executable, "-m", "benchmarks._telemetry_load", "orm", folder, str(_ORM_MESSAGES)]
        spent = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    _say(f"ORM one by one: {_ORM_MESSAGES / spent:,.0f} windows per CPU second")
    return 1e6 * spent / _ORM_MESSAGES


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 10.0
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)


def _say(words: str) -> None:
    print(f"  {words}", file=sys.stderr, flush=True)
