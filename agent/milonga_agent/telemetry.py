"""Telemetry that survives: windows wait in a spool on disk until the hub says that they are in its database."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from milonga.pinning import HUB_NAME
from milonga.v1 import common_pb2, telemetry_pb2

from milonga_agent.errors import DiskFull
from milonga_agent.files import write_atomically
from milonga_agent.keys import KEY
from milonga_agent.mqtt_library import client as paho
from milonga_agent.state import Identity, Store

_log = logging.getLogger(__name__)

# 30-second windows of two days, about 10 MB.
MAX_WAITING = 6_000
# A window that was published and not acknowledged for this long is published again.
_RESEND_SECONDS = 10.0


class Spool:
    """Windows on disk, one file each, oldest first. A full spool drops the oldest and counts it."""

    def __init__(self, folder: Path, limit: int = MAX_WAITING) -> None:
        self._folder = folder
        self._limit = limit
        self.dropped_count = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._names = sorted(path.name for path in folder.glob("*.window"))

    def __len__(self) -> int:
        return len(self._names)

    def put(self, boot_order: int, window: telemetry_pb2.TelemetryWindow) -> None:
        """Keep the window. Raises DiskFull."""
        while len(self._names) >= self._limit:
            self._forget(self._names[0])
            self.dropped_count += 1
        window.dropped_count = self.dropped_count
        # Sorts by boot, then by sequence, whatever the clock says.
        name = f"{boot_order:010}-{window.sequence:012}-{window.boot_id}.window"
        write_atomically(self._folder / name, window.SerializeToString())
        self._names.append(name)

    def waiting(self) -> list[tuple[str, bytes]]:
        """Return names and contents of all windows, oldest first."""
        return [(name, (self._folder / name).read_bytes()) for name in list(self._names)]

    def acknowledge(self, boot_id: str, sequences: set[int]) -> None:
        """Forget the windows that the hub has committed."""
        for name in list(self._names):
            _, sequence, boot = name[: -len(".window")].split("-", 2)
            if boot == boot_id and int(sequence) in sequences:
                self._forget(name)

    def _forget(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        self._names.remove(name)


class Boot:
    """Tells the starts of one agent apart: an id, and a number that grows without trusting the clock."""

    def __init__(self, folder: Path) -> None:
        path = folder / "boots.json"
        self.order = _count(path) + 1
        try:
            write_atomically(path, json.dumps({"count": self.order}).encode("utf-8"))
        except DiskFull as error:
            # The id below is this start's alone all the same; only the order of two starts is lost.
            _log.error("telemetry: %s", error)
        self.id = f"{self.order:x}-{time.time_ns():x}"
        self._sequence = 0

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence


def _count(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["count"]) if path.exists() else 0
    except (ValueError, KeyError, TypeError) as error:
        # Windows of this start may go out before those of earlier ones; nothing else depends on it.
        _log.error("%s is damaged: %s; counting starts anew", path, error)
        return 0


def window_of(counted: dict[str, Any], about: dict[str, Any]) -> telemetry_pb2.TelemetryWindow:
    """Return the message of a worker's counts; `about` gives device, boot_id, sequence, bundle, CPU and the like."""
    window = telemetry_pb2.TelemetryWindow(
        **about,
        request_count=counted["request_count"],
        error_count=counted["error_count"],
        log10_latency_ms=common_pb2.Histogram(**counted["log10_latency_ms"]),
        latency_ms=common_pb2.Percentiles(**counted["latency_ms"]),
        confidence=common_pb2.Histogram(**counted["confidence"]),
        class_counts=counted["class_counts"],
        inputs={name: common_pb2.Histogram(**histogram) for name, histogram in counted["inputs"].items()},
    )
    window.started_at.FromNanoseconds(int(counted["started_at"] * 1e9))
    window.ended_at.FromNanoseconds(int(counted["ended_at"] * 1e9))
    return window


class HubContext(ssl.SSLContext):
    """Asks every broker for a hub's certificate, wherever it is reached; the authority, which is pinned, tells hubs apart."""

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, *args, **{**options, "server_hostname": HUB_NAME})


class Sender:
    """Publishes the spool over MQTT, QoS 1, and empties it as acknowledgements come. Reconnects by itself."""

    def __init__(self, identity: Identity, boot_id: str, spool: Spool, store: Store) -> None:
        self._device = identity.device
        self._boot_id = boot_id
        self._spool = spool
        self._lock = threading.Lock()
        self._published: dict[str, float] = {}
        self._topic = f"milonga/v1/{identity.device}"
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"milonga-agent-{identity.device}")
        self._store = store
        self._tls = HubContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.load_verify_locations(str(store.authority_path))
        self._load()
        self._client.tls_set_context(self._tls)
        self._client.reconnect_delay_set(1, 10)
        self._client.will_set(f"{self._topic}/status", self._status(online=False), qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._address = (identity.mqtt_host, identity.mqtt_port)

    def use(self, identity: Identity) -> None:
        """Make the next connection where the identity says, with the certificate that is kept now."""
        self._load()
        address = (identity.mqtt_host, identity.mqtt_port)
        if address != self._address:
            self.stop()
            self._address = address
            self.start()

    def _load(self) -> None:
        self._tls.load_cert_chain(str(self._store.certificate_path), str(self._store.folder / KEY))

    def start(self) -> None:
        """Connect, and connect again for ever, until `stop`."""
        self._client.connect_async(*self._address, keepalive=30)
        self._client.loop_start()

    def stop(self) -> None:
        """Say goodbye and stop; what is not acknowledged stays in the spool."""
        if self._client.is_connected():
            self._client.publish(f"{self._topic}/status", self._status(online=False), qos=1, retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def put(self, boot_order: int, window: telemetry_pb2.TelemetryWindow) -> None:
        """Spool the window, then send it. A disk that is full costs this window and is said in the log."""
        with self._lock:
            try:
                self._spool.put(boot_order, window)
            except DiskFull as error:
                self._spool.dropped_count += 1
                _log.error("telemetry: %s", error)
        self.flush()

    def flush(self) -> None:
        """Publish whatever has not been published lately."""
        if not self._client.is_connected():
            return
        now = time.monotonic()
        with self._lock:
            for name, payload in self._spool.waiting():
                if now - self._published.get(name, -_RESEND_SECONDS) >= _RESEND_SECONDS:
                    self._published[name] = now
                    self._client.publish(f"{self._topic}/telemetry", payload, qos=1)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            _log.warning("telemetry: the broker refuses: %s", reason)
            return
        client.subscribe(f"{self._topic}/ack", qos=1)
        client.publish(f"{self._topic}/status", self._status(online=True), qos=1, retain=True)
        with self._lock:
            # The hub may never have seen what was sent on the old connection.
            self._published.clear()
        self.flush()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        ack = telemetry_pb2.TelemetryAck()
        try:
            ack.ParseFromString(message.payload)
        except Exception as error:  # protobuf raises its own DecodeError, from several places.
            _log.warning("telemetry: an acknowledgement could not be read: %s", error)
            return
        with self._lock:
            self._spool.acknowledge(ack.boot_id, set(ack.sequences))

    def _status(self, online: bool) -> bytes:
        status = telemetry_pb2.DeviceStatus(device=self._device, online=online, boot_id=self._boot_id)
        return bytes(status.SerializeToString())
