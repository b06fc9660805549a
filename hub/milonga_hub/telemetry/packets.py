"""Packets of MQTT 3.1.1, as far as a subscriber needs them. Pure; sections are those of the OASIS standard."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milonga_hub.errors import InvalidInput

# Kinds of packets, section 2.2.1.
CONNACK, PUBLISH, SUBACK = 2, 3, 9
PING = b"\xc0\x00"
# A subscriber has one subscription, and one packet that is answered by its number.
_SUBSCRIPTION = 1
# Four bytes of seven bits, section 2.2.3.
_LONGEST_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Published:
    """A message; `packet_id` is None where nobody waits for an acknowledgement."""

    topic: str
    payload: bytes
    packet_id: int | None


class Packets:
    """Cuts what comes over a connection into packets, wherever it was cut on its way."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, chunk: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield kind, flags and body of each packet that is whole. Raises InvalidInput for a length that is none."""
        data = self._rest + chunk if self._rest else chunk
        place, end = 0, len(data)
        while True:
            body, length, shift = place + 1, 0, 0
            while body < end:
                byte = data[body]
                body += 1
                length |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift == 7 * _LONGEST_LENGTH:
                    raise InvalidInput("the broker sent a packet whose length is none")
            else:
                break
            if body + length > end:
                break
            first = data[place]
            place = body + length
            yield first >> 4, first & 0x0F, data[body:place]
        self._rest = data[place:]


def published(flags: int, body: bytes) -> Published:
    """Return the message of a PUBLISH, section 3.3. Raises InvalidInput for one without its parts."""
    after = 2 + int.from_bytes(body[:2], "big")
    start = after + 2 if flags & 0x06 else after
    if len(body) < start:
        raise InvalidInput("the broker sent a message that is cut off")
    try:
        topic = body[2:after].decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the broker sent a topic that is no text: {error}") from error
    return Published(topic, body[start:], int.from_bytes(body[after:start], "big") if start > after else None)


def pubacks(messages: Sequence[Published]) -> bytes:
    """Return the acknowledgements of all that want one, section 3.4."""
    return b"".join(struct.pack(">BBH", 0x40, 2, one.packet_id) for one in messages if one.packet_id is not None)


def publish_packet(topic: str, payload: bytes) -> bytes:
    """Return a message of QoS 0."""
    return _packet(0x30, _text(topic) + payload)


def connect_packet(client_id: str, username: str, password: str, keepalive_seconds: int) -> bytes:
    """Return a CONNECT with a clean session, section 3.1."""
    flags = 0x02 | (0x80 if username else 0) | (0x40 if username and password else 0)
    login = (_text(username) if flags & 0x80 else b"") + (_text(password) if flags & 0x40 else b"")
    head = struct.pack(">BBH", 4, flags, keepalive_seconds)
    return _packet(0x10, _text("MQTT") + head + _text(client_id) + login)


def subscribe_packet(topic_filter: str) -> bytes:
    """Return a SUBSCRIBE at QoS 1, section 3.8."""
    return _packet(0x82, _SUBSCRIPTION.to_bytes(2, "big") + _text(topic_filter) + b"\x01")


def unsubscribe_packet(topic_filter: str) -> bytes:
    return _packet(0xA2, (_SUBSCRIPTION + 1).to_bytes(2, "big") + _text(topic_filter))


def disconnect_packet() -> bytes:
    return b"\xe0\x00"


def _packet(first: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, low = length >> 7, length & 0x7F
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes((first, *encoded)) + body


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded
