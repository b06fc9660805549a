"""An agent's MQTT client for tests, and an event loop in a thread for the hub's side."""

from __future__ import annotations

import asyncio
import queue
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as paho
from milonga.v1 import telemetry_pb2
from milonga_hub.authority import Authority
from milonga_hub.bridge import to_proto
from milonga_hub.telemetry.endpoint import BrokerEndpoint

from tests.certificates import Key
from tests.telemetry.windows import window

PATIENCE_SECONDS = 60.0


def context_of(
    authority: Authority, key: Key | None, certificate: str, shown_by: Authority | None = None
) -> ssl.SSLContext:
    """Return what a client with this key and certificate shows, and that it believes `authority`; without a key it shows nothing."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.check_hostname = False
    if key is not None:
        (shown_by or authority).load(context, key.pem, certificate.encode())
    return context


def payload(sequence: int, device: str = "pi-1", **values: Any) -> bytes:
    return bytes(to_proto(window(sequence, device=device, **values), telemetry_pb2.TelemetryWindow).SerializeToString())


class Device:
    """A paho client as an agent has one; `heard` holds the sequences of the acknowledgements."""

    def __init__(
        self,
        endpoint: BrokerEndpoint,
        name: str,
        tls: ssl.SSLContext,
        client_id: str = "",
        will: str = "",
        last_words: bytes = b"gone",
    ) -> None:
        self.name = name
        self.heard: queue.Queue[int] = queue.Queue()
        self.answered: queue.Queue[Any] = queue.Queue()
        self.ended: queue.Queue[Any] = queue.Queue()
        self._subscribed: queue.Queue[Any] = queue.Queue()
        # Whether it was connected, or disconnected, in turn.
        self._news: queue.Queue[bool] = queue.Queue()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id or name)
        client.tls_set_context(tls)
        # What a device says of itself counts for nothing.
        client.username_pw_set("milonga_hub", "x")
        if will:
            client.will_set(will, last_words, qos=1)
        client.on_connect = lambda c, u, flags, reason, p: self._connected(reason)
        client.on_disconnect = lambda c, u, flags, reason, p: self._disconnected(reason)
        client.on_subscribe = lambda c, u, mid, reasons, p: self._subscribed.put(reasons)
        client.on_message = lambda c, u, message: self._hear(message.payload)
        client.reconnect_delay_set(0.05, 0.2)
        client.connect(endpoint.host, endpoint.port)
        client.loop_start()
        self.client = client

    def _connected(self, reason: Any) -> None:
        self.answered.put(reason)
        self._news.put(not reason.is_failure)

    def _disconnected(self, reason: Any) -> None:
        self.ended.put(reason)
        self._news.put(False)

    def _hear(self, data: bytes) -> None:
        for sequence in telemetry_pb2.TelemetryAck.FromString(data).sequences:
            self.heard.put(sequence)

    def admitted(self) -> bool:
        return not self.answered.get(timeout=PATIENCE_SECONDS).is_failure

    def let_in(self) -> bool:
        """Say whether the broker lets it in: it may refuse in the handshake, or answer that it does."""
        return bool(self._news.get(timeout=PATIENCE_SECONDS))

    def drop(self) -> None:
        """End the connection as a power cut does, without a word."""
        connection = self.client.socket()
        assert connection is not None
        self.client.loop_stop()
        connection.close()

    def subscribe(self, topic: str) -> bool:
        self.client.subscribe(topic, qos=1)
        return not self._subscribed.get(timeout=PATIENCE_SECONDS)[0].is_failure

    def ready(self) -> Device:
        assert self.admitted()
        assert self.subscribe(f"milonga/v1/{self.name}/ack")
        return self

    def publish(self, data: bytes, topic: str = "") -> None:
        self.client.publish(topic or f"milonga/v1/{self.name}/telemetry", data, qos=1).wait_for_publish(
            PATIENCE_SECONDS
        )

    def acknowledged(self, count: int) -> list[int]:
        return sorted(self.heard.get(timeout=PATIENCE_SECONDS) for _ in range(count))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


async def _end_tasks() -> None:
    """Connections that were refused a moment ago are still closing."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if rest:
        _, late = await asyncio.wait(rest, timeout=PATIENCE_SECONDS)
        assert not late
    for _ in range(3):  # A closed socket is let go of one or two turns later.
        await asyncio.sleep(0)


class Loop:
    """An event loop in a thread, as the hub's is, so that the tests' clients may block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self) -> None:
        self.run(_end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def connected(endpoint: BrokerEndpoint, name: str, tls: ssl.SSLContext, **values: Any) -> Iterator[Device]:
    client = Device(endpoint, name, tls, **values)
    try:
        yield client
    finally:
        client.close()
