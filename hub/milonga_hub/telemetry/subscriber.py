"""A client of MQTT 3.1.1 that hears one filter and speaks in bulk: what has come is read, and answered, all at once.

Libraries acknowledge each message with a write of its own, which over TLS is a record and a system call for the hub and for the broker; see
docs/adr/0029-a-subscriber-of-our-own.md. This is as much of the protocol as the intake needs: QoS 1 in, QoS 0 out, clean sessions.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from milonga_hub.errors import InvalidInput
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.telemetry.packets import (
    CONNACK,
    PING,
    PUBLISH,
    SUBACK,
    Packets,
    Published,
    connect_packet,
    disconnect_packet,
    pubacks,
    publish_packet,
    published,
    subscribe_packet,
    unsubscribe_packet,
)
from milonga_hub.telemetry.pulse import Pulse

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024
# Half of what the broker is told, after which it may take the client for gone.
_SILENCE_SECONDS = 15.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 10.0


class _Refused(Exception):
    """The broker answered, and lets the client not do what it wants."""


class Subscriber:
    """`subscriber.start()` ... `subscriber.stop()`: a thread that connects, and connects again, until it is stopped."""

    def __init__(
        self, endpoint: BrokerEndpoint, client_id: str, topic_filter: str, hear: Callable[[Sequence[Published]], None]
    ) -> None:
        """`hear` is called in the thread, with all messages that have come; they are acknowledged to the broker when it returns."""
        self._endpoint = endpoint
        self._client_id = client_id
        self._filter = topic_filter
        self._hear = hear
        self._lock = threading.Lock()
        self._line: _Line | None = None
        # Why it could not connect, or no more.
        self.trouble = ""
        self._ending = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-subscriber", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Return whether it is subscribed, once it is or the time is over."""
        return self._listening.wait(seconds)

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send at QoS 0, in one write. Where there is no connection nothing is sent: who waits for it says so again."""
        self._send(b"".join(publish_packet(topic, payload) for topic, payload in messages))

    def unsubscribe(self) -> None:
        self._send(unsubscribe_packet(self._filter))

    def stop(self) -> None:
        """Say goodbye and end the thread."""
        self._ending.set()
        self._send(disconnect_packet())
        with self._lock:
            if self._line is not None:
                self._line.shut()
        self._thread.join()

    def _send(self, data: bytes) -> None:
        with self._lock:
            if self._line is None:
                return
            try:
                self._line.send(data)
            except OSError:
                # A part of it may have gone out. The thread that reads finds the line ended, and says so.
                self._line.shut()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._ending.is_set():
            try:
                self._listen()
            except _Refused as error:
                self.trouble = str(error)
                _log.error("%s", error)
            except (OSError, InvalidInput) as error:
                self.trouble = str(error)
                if self._listening.is_set() and not self._ending.is_set():
                    _log.warning("lost the MQTT broker (%s); connecting again", error)
            except Exception:
                # Whatever it is, telemetry is to be read again.
                _log.exception("could not take in what the MQTT broker sent; connecting again")
            if self._listening.is_set():
                pause = _FIRST_PAUSE_SECONDS
                self._listening.clear()
            self._ending.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _listen(self) -> None:
        """Connect, subscribe, and hear until the line breaks. Raises OSError, InvalidInput, _Refused."""
        line = _Line(self._endpoint)
        try:
            line.send(
                connect_packet(
                    self._client_id, self._endpoint.username, self._endpoint.password, round(2 * _SILENCE_SECONDS)
                )
            )
            line.send(subscribe_packet(self._filter))
            with self._lock:
                self._line = line
            self._read(line)
        finally:
            with self._lock:
                self._line = None
            line.close()

    def _read(self, line: _Line) -> None:
        packets, pulse = Packets(), Pulse(time.monotonic(), _SILENCE_SECONDS)
        while not self._ending.is_set():
            chunk = line.receive()
            now = time.monotonic()
            if chunk is not None:
                pulse.hears(now)
            if pulse.is_gone(now):
                raise TimeoutError("it is silent")
            if pulse.asks(now, line.sent_at):
                line.send(PING)
            if chunk is None:
                continue
            came: list[Published] = []
            for kind, flags, body in packets.of(chunk):
                if kind == PUBLISH:
                    came.append(published(flags, body))
                else:
                    self._admitted(kind, body)
            if came:
                self._hear(came)
                if answer := pubacks(came):
                    line.send(answer)

    def _admitted(self, kind: int, body: bytes) -> None:
        if kind == CONNACK and body[-1:] != b"\x00":
            raise _Refused(f"the MQTT broker refused the hub (code {body[-1:].hex()})")
        if kind == SUBACK:
            if body[-1:] >= b"\x80":
                raise _Refused(f"the MQTT broker does not let the hub read {self._filter}; allow it there")
            self._listening.set()


class _Line:
    """One connection. Reads of one thread and writes of several go beside each other; TLS has one state for both."""

    def __init__(self, endpoint: BrokerEndpoint) -> None:
        self._socket = socket.create_connection((endpoint.host, endpoint.port), _SILENCE_SECONDS)
        self.sent_at = time.monotonic()
        self._sending = threading.Lock()
        self._ended = False
        self._object: ssl.SSLObject | None = None
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.tls is not None:
                # In memory: a socket of Python's ssl asks the system twice for each record, and a message is one.
                self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                self._object = endpoint.tls.wrap_bio(self._incoming, self._outgoing, server_hostname=endpoint.host)
                self._shake_hands(self._object)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(_CHUNK_BYTES)
                if not data:
                    raise ConnectionError("it ended the connection in the handshake") from None
                self._incoming.write(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())

    def send(self, data: bytes) -> None:
        with self._sending:
            self.sent_at = time.monotonic()
            if self._object is None:
                self._socket.sendall(data)
                return
            self._object.write(data)
            self._flush()

    def receive(self) -> bytes | None:
        """Return what has come, at least a byte of it; None after a while in which nothing came. Raises OSError where the line ended."""
        while not self._ended:
            try:
                data = self._socket.recv(_CHUNK_BYTES)
            except TimeoutError:
                return None
            if not data:
                raise ConnectionError("it ended the connection")
            if self._object is None:
                return data
            with self._sending:
                self._incoming.write(data)
                found = self._opened(self._object)
                self._flush()
            if found:
                return found
        raise ConnectionError("it ended the connection")

    def _opened(self, tls: ssl.SSLObject) -> bytes:
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while part := tls.read(_CHUNK_BYTES):
                parts.append(part)
            # The other side has said so in TLS, and may wait with the connection for this one to do so too.
            self._ended = True
        return b"".join(parts)

    def shut(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
