"""MQTT for many devices on one event loop: paho without its threads, windows in memory instead of a spool on disk."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from milonga.v1 import telemetry_pb2
from paho.mqtt import client as paho

from milonga_agent.simulation.tally import Tally
from milonga_agent.state import Credentials, Identity
from milonga_agent.telemetry import HubContext

_KEEPALIVE_SECONDS = 60
# As the agent's Sender.
_RESEND_SECONDS = 10.0
# A device that is offline keeps its newest windows: an hour of them at the hub's default.
_MOST_WAITING = 120


def tls_of(credentials: Credentials) -> ssl.SSLContext:
    """Return what the device shows and whom it believes."""
    context = HubContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=credentials.authority.decode("ascii"))
    # The ssl module reads certificates of one's own from files alone.
    with tempfile.NamedTemporaryFile() as file:
        file.write(credentials.key + b"\n" + credentials.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context


class Publisher:
    """One device's telemetry. All methods belong to the event loop; only the handshake runs in the executor."""

    def __init__(self, identity: Identity, boot_id: str, tally: Tally, executor: Executor) -> None:
        self._identity = identity
        self._boot_id = boot_id
        self._tally = tally
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._topic = f"milonga/v1/{identity.device}"
        self._client: Any = None
        self._online = False
        # By sequence: the window, and when it was last sent.
        self._waiting: OrderedDict[int, tuple[bytes, float]] = OrderedDict()
        self.dropped_count = 0

    @property
    def is_open(self) -> bool:
        return self._client is not None

    async def open(self, credentials: Credentials) -> None:
        """Connect. Raises OSError where nobody answers; whether the broker agrees shows later."""
        name = f"milonga-agent-{self._identity.device}"
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, reconnect_on_failure=False)
        client.will_set(f"{self._topic}/status", self._status(online=False), qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        self._client = client
        connect = functools.partial(self._handshake, client, credentials)
        await self._loop.run_in_executor(self._executor, connect)
        if self._client is not client:
            client.disconnect()  # It was closed meanwhile.
            return
        socket = client.socket()
        if socket is not None:
            client.on_socket_close = self._on_socket_close
            client.on_socket_register_write = self._on_want_write
            client.on_socket_unregister_write = self._on_written
            self._loop.add_reader(socket.fileno(), self._read, client, socket)
            self._write(client)

    def _handshake(self, client: Any, credentials: Credentials) -> None:
        client.tls_set_context(tls_of(credentials))
        client.connect(self._identity.mqtt_host, self._identity.mqtt_port, keepalive=_KEEPALIVE_SECONDS)

    def close(self) -> None:
        """Say goodbye; what is not acknowledged is kept for the next time."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._online:
            client.publish(f"{self._topic}/status", self._status(online=False), qos=1, retain=True)
        client.disconnect()
        # What is still to be written goes out as far as the socket takes it.
        self._write(client)
        self._gone()

    def put(self, window: telemetry_pb2.TelemetryWindow) -> None:
        """Send a window, and again until the hub has it; the oldest give way while there is no connection."""
        while len(self._waiting) >= _MOST_WAITING:
            self._waiting.popitem(last=False)
            self.dropped_count += 1
        window.dropped_count = self.dropped_count
        self._waiting[window.sequence] = (window.SerializeToString(), -_RESEND_SECONDS)
        self.flush()

    def flush(self) -> None:
        """Send what was not sent lately, and keep the connection alive."""
        client = self._client
        if client is None or not self._online:
            return
        now = time.monotonic()
        for sequence, (payload, sent_at) in list(self._waiting.items()):
            if now - sent_at >= _RESEND_SECONDS:
                self._waiting[sequence] = (payload, now)
                client.publish(f"{self._topic}/telemetry", payload, qos=1)
                self._tally.windows_sent += 1
        client.loop_misc()

    def _status(self, online: bool) -> bytes:
        status = telemetry_pb2.DeviceStatus(device=self._identity.device, online=online, boot_id=self._boot_id)
        return bytes(status.SerializeToString())

    # Called by paho.

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._tally.error(f"the broker refuses: {reason}")
            return
        if not self._online:
            self._online = True
            self._tally.telemetry_online += 1
        client.subscribe(f"{self._topic}/ack", qos=1)
        client.publish(f"{self._topic}/status", self._status(online=True), qos=1, retain=True)
        # The hub may never have seen what was sent on the old connection.
        self._waiting = OrderedDict((key, (payload, -_RESEND_SECONDS)) for key, (payload, _) in self._waiting.items())
        self.flush()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        ack = telemetry_pb2.TelemetryAck.FromString(message.payload)
        if ack.boot_id != self._boot_id:
            return
        for sequence in ack.sequences:
            if self._waiting.pop(sequence, None) is not None:
                self._tally.windows_acknowledged += 1

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if client is self._client:
            self._client = None
            self._gone()

    def _gone(self) -> None:
        if self._online:
            self._online = False
            self._tally.telemetry_online -= 1

    def _on_socket_close(self, client: Any, userdata: Any, socket: Any) -> None:
        self._loop.remove_reader(socket.fileno())
        self._loop.remove_writer(socket.fileno())

    def _on_want_write(self, client: Any, userdata: Any, socket: Any) -> None:
        self._loop.add_writer(socket.fileno(), self._write, client)

    def _on_written(self, client: Any, userdata: Any, socket: Any) -> None:
        self._loop.remove_writer(socket.fileno())

    # Called by the event loop.

    def _read(self, client: Any, socket: Any) -> None:
        _guard(client.loop_read)
        # TLS may hold more than one message that the event loop knows nothing of any more.
        while client.socket() is socket and socket.pending():
            _guard(client.loop_read)

    def _write(self, client: Any) -> None:
        _guard(client.loop_write)


def _guard(act: Callable[[], Any]) -> None:
    """Let a connection break: on_disconnect is told."""
    with contextlib.suppress(OSError, ValueError):
        act()
