"""From the broker to the database: windows are committed in batches, and only then acknowledged to their devices."""

from __future__ import annotations

import asyncio
import logging
import queue
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from milonga.v1 import telemetry_pb2
from sqlalchemy.exc import OperationalError

from milonga_hub import counts
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.telemetry.messages import TOPIC_ROOT, device_of, parse_window
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.refusals import Refusals
from milonga_hub.telemetry.rules_intake import Allowance

_log = logging.getLogger(__name__)

# A window of telemetry has about 2 kB.
MAX_MESSAGE_BYTES = 1 << 20
_TELEMETRY_FILTER = f"{TOPIC_ROOT}/+/telemetry"
_STOP = object()
_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerEndpoint:
    """Where a broker listens and who the hub is to it."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    # None for a broker that is asked without TLS.
    tls: ssl.SSLContext | None = None

    @classmethod
    def of_url(cls, url: str, tls: ssl.SSLContext | None = None) -> BrokerEndpoint:
        """Return the endpoint of "mqtts://user:password@host:8883", or mqtt:// without TLS, for a broker that runs on its own."""
        parts = urlsplit(url)
        try:
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError):
            port = 0
        if not parts.hostname or not port:
            # Without the password, which may be in it.
            shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            raise InvalidInput(f"{shown!r} is not a broker's address; write mqtts://user:password@host:8883")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.hostname, port, user, password, tls)


class TelemetryIntake:
    """Reads telemetry off a broker in threads of its own, so that the hub's event loop never waits for the database.

    A window counts as received when `store` has returned; before that nothing is acknowledged, so that a hub that dies
    loses nothing that a device has let go of.
    """

    def __init__(
        self,
        store: Callable[[Sequence[TelemetryWindow]], object],
        examine: Callable[[TelemetryWindow], TelemetryWindow] = lambda window: window,
        refusals: Refusals | None = None,
        *,
        batch_size: int = 500,
        batch_seconds: float = 0.05,
        waiting_limit: int = 20_000,
        is_shut_out: Callable[[str], bool] = lambda device: False,
    ) -> None:
        """`examine` returns the window that is to be stored, or raises InvalidInput for one that must not be.

        What a device sends that `is_shut_out` is dropped: a broker that somebody else runs may not know of it yet.
        """
        self._examine = examine
        self._is_shut_out = is_shut_out
        self.refusals = refusals or Refusals()
        self._allowances: dict[str, Allowance] = {}
        self._store = store
        self._batch_size = batch_size
        self._batch_seconds = batch_seconds
        self._waiting: queue.Queue[Any] = queue.Queue(maxsize=waiting_limit)
        self._client: Any = None
        self._writer: threading.Thread | None = None
        self._subscribed = threading.Event()
        counts.queues["telemetry"] = self._waiting.qsize

    async def start(self, endpoint: BrokerEndpoint, timeout_seconds: float = 10.0) -> None:
        """Connect and subscribe; on return no message is missed. Reconnects by itself from then on."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="intake", clean_session=True)
        if endpoint.username:
            client.username_pw_set(endpoint.username, endpoint.password)
        if endpoint.tls is not None:
            client.tls_set_context(endpoint.tls)
        client.reconnect_delay_set(1, 10)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client
        self._subscribed.clear()
        client.connect_async(endpoint.host, endpoint.port, keepalive=30)
        client.loop_start()
        self._writer = threading.Thread(target=self._write, name="telemetry-writer", daemon=True)
        self._writer.start()
        if not await asyncio.to_thread(self._subscribed.wait, timeout_seconds):
            await self.stop()
            raise FailedPrecondition(
                f"the MQTT broker at {endpoint.host}:{endpoint.port} did not answer within {timeout_seconds:.0f} s; "
                "see that it runs and knows the hub's user"
            )

    async def stop(self) -> None:
        """Commit and acknowledge what has come in, then disconnect."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        client.unsubscribe(_TELEMETRY_FILTER)
        self._waiting.put(_STOP)
        if self._writer is not None:
            self._writer.join()
        client.disconnect()
        client.loop_stop()

    # Called in the client's thread.

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            _log.error("the MQTT broker refused the hub: %s", reason)
            return
        client.subscribe(_TELEMETRY_FILTER, qos=1)

    def _on_subscribe(self, client: Any, userdata: Any, message_id: int, reasons: Any, properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            _log.error("the MQTT broker does not let the hub read %s; allow it there", _TELEMETRY_FILTER)
            return
        self._subscribed.set()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            _log.warning("lost the MQTT broker (%s); connecting again", reason)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        device = device_of(message.topic)
        if self._is_shut_out(device):
            self._refuse(device, "telemetry_shut_out", "it is shut out")
            return
        now = time.monotonic()
        if not self._allowances.setdefault(device, Allowance.full(now)).take(now):
            # Not acknowledged: whoever is honest sends it again.
            self._refuse(device, "telemetry_flood", "it sends more telemetry than a device can make")
            return
        try:
            window = parse_window(message.topic, message.payload)
        except Exception as error:
            # Whatever is wrong with one message, the next ones are read.
            self._refuse(device, "telemetry", f"a message could not be read: {error}")
            return
        try:
            window = self._examine(window)
        except InvalidInput as error:
            self._refuse(device, "telemetry_implausible", f"telemetry that cannot be true: {error}")
            # The device may let go of it: it would be refused again.
            self._acknowledge(client, [window])
            return
        try:
            self._waiting.put_nowait(window)
        except queue.Full:
            _log.warning("too many windows wait for the database; %s will send its again", window.device)

    def _refuse(self, device: str, kind: str, reason: str) -> None:
        if self.refusals.note(device, kind, reason):
            _log.warning("refused of %s: %s", device, reason)

    # Called in the writer's thread.

    def _write(self) -> None:
        client = self._client
        while True:
            batch, last = self._next_batch()
            if batch:
                self._acknowledge(client, self._stored(batch))
            if last:
                return

    def _next_batch(self) -> tuple[list[TelemetryWindow], bool]:
        first = self._waiting.get()
        if first is _STOP:
            return [], True
        batch = [first]
        deadline = time.monotonic() + self._batch_seconds
        while len(batch) < self._batch_size:
            try:
                item = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is _STOP:
                return batch, True
            batch.append(item)
        return batch, False

    def _stored(self, batch: list[TelemetryWindow]) -> list[TelemetryWindow]:
        """Return those of the batch that are safe. One that the database cannot take does not hold up the others."""
        try:
            self._store(batch)
        except Exception as error:
            if isinstance(error, OperationalError):
                _log.error(
                    "%d windows were not stored (%s); their devices will send them again", len(batch), error.orig
                )
                return []
            if len(batch) == 1:
                _log.exception("a window of %s was not stored; it will be sent again", batch[0].device)
                return []
            half = len(batch) // 2
            return self._stored(batch[:half]) + self._stored(batch[half:])
        return batch

    @staticmethod
    def _acknowledge(client: Any, windows: list[TelemetryWindow]) -> None:
        sequences: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for window in windows:
            sequences[window.device, window.boot_id].append(window.sequence)
        for (device, boot_id), numbers in sequences.items():
            ack = telemetry_pb2.TelemetryAck(boot_id=boot_id, sequences=numbers)
            client.publish(f"{TOPIC_ROOT}/{device}/ack", ack.SerializeToString(), qos=1)
