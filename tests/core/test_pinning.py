"""A hub is known by its authority's fingerprint, before anything is said to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga.pinning import NotPinned, _certificates, authority_of, pin_of, presented_chain
from milonga_hub.transports.grpc import serve

from tests.certificates import Tls

T = TypeVar("T")


def _asked(tls: Tls, ask: Callable[[int], Awaitable[T]]) -> T:
    async def story() -> T:
        server, port = await serve([], "127.0.0.1", 0, tls.server(), gate=None)
        try:
            return await ask(port)
        finally:
            await server.stop(None)

    return asyncio.run(story())


def test_the_authority_that_a_hub_shows_is_its_own(tmp_path: Path) -> None:
    tls = Tls(tmp_path)
    wanted = tls.authority.fingerprint
    shown = _asked(tls, lambda port: asyncio.to_thread(authority_of, "127.0.0.1", port, wanted.upper()))
    assert shown.encode() == tls.authority.certificate


def test_a_hub_with_another_authority_is_refused(tmp_path: Path) -> None:
    other = Tls(tmp_path / "other").authority.fingerprint
    with pytest.raises(NotPinned, match="another hub"):
        _asked(Tls(tmp_path / "hub"), lambda port: asyncio.to_thread(authority_of, "127.0.0.1", port, other))


def test_who_speaks_no_tls_is_an_error_of_the_network() -> None:
    async def story() -> None:
        async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\r\n" * 10)
            writer.close()

        server = await asyncio.start_server(chat, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises((OSError, ssl.SSLError)):
                await asyncio.to_thread(presented_chain, "127.0.0.1", port)

    asyncio.run(story())


@given(st.binary(max_size=200).map(lambda junk: b"\x16\x03\x03\x00\xc8" + junk.ljust(200, b"\x0b")) | st.binary())
def test_no_bytes_break_the_reader_of_handshakes(seen: bytes) -> None:
    assert isinstance(_certificates(seen), list)


@pytest.mark.parametrize(("token", "pin"), [("mt_a.beef", "sha256:beef"), ("mt_a", ""), ("", "")])
def test_a_token_carries_the_pin_behind_its_dot(token: str, pin: str) -> None:
    assert pin_of(token) == pin
