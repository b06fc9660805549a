"""Packets of MQTT are cut right wherever the line cut them, and what is none is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.errors import InvalidInput
from milonga_hub.telemetry.packets import (
    PUBLISH,
    SUBACK,
    Packets,
    Published,
    connect_packet,
    pubacks,
    publish_packet,
    published,
    subscribe_packet,
)

_CHUNKS = st.lists(st.integers(1, 300), max_size=40)


def _heard(stream: bytes, cuts: list[int]) -> list[Published]:
    packets, found = Packets(), []
    for length in [*cuts, len(stream)]:
        chunk, stream = stream[:length], stream[length:]
        found += [published(flags, body) for kind, flags, body in packets.of(chunk) if kind == PUBLISH]
    return found


@given(st.lists(st.tuples(st.text(max_size=40), st.binary(max_size=400)), max_size=12), _CHUNKS)
def test_messages_are_heard_however_the_line_cuts_them(messages: list[tuple[str, bytes]], cuts: list[int]) -> None:
    stream = b"".join(publish_packet(topic, payload) + b"\xd0\x00" for topic, payload in messages)
    assert _heard(stream, cuts) == [Published(topic, payload, None) for topic, payload in messages]


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_messages_of_every_length_are_heard_whole(length: int) -> None:
    (heard,) = _heard(publish_packet("a", bytes(length)), [])
    assert heard.payload == bytes(length)


def test_what_wants_an_acknowledgement_gets_it_by_its_number() -> None:
    # As section 3.3 has it: QoS 1, topic "a/b", packet 10.
    (heard,) = _heard(bytes.fromhex("32 09 00 03 61 2f 62 00 0a 68 69"), [])
    assert heard == Published("a/b", b"hi", 10)
    assert pubacks([heard, Published("a", b"", None), Published("a", b"", 258)]) == bytes.fromhex("4002000a40020102")


def test_a_client_says_who_it_is_and_what_it_wants_to_hear() -> None:
    assert connect_packet("hub", "", "", 30) == bytes.fromhex("100f 0004 4d515454 04 02 001e 0003 687562")
    assert connect_packet("hub", "u", "p", 30)[9] == 0xC2
    assert subscribe_packet("+") == bytes.fromhex("8206 0001 0001 2b 01")
    assert [kind for kind, _, _ in Packets().of(bytes.fromhex("9003000101"))] == [SUBACK]


@pytest.mark.parametrize("stream", ["30ffffffff7f", "3001 00", "3203 000161", "3004 0002ff61"])
def test_what_is_no_packet_is_refused(stream: str) -> None:
    with pytest.raises(InvalidInput):
        _heard(bytes.fromhex(stream), [])


@given(st.binary(max_size=200), _CHUNKS)
def test_whatever_a_broker_sends_is_heard_or_refused(stream: bytes, cuts: list[int]) -> None:
    try:
        _heard(stream, cuts)
    except InvalidInput:
        return
