"""The HTTP port over TLS: with which certificate, also when its files are renewed."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from milonga_hub.app import Hub
from milonga_hub.authority import Authority
from milonga_hub.errors import InvalidInput
from milonga_hub.settings import Settings
from milonga_hub.transports.http import serve
from milonga_hub.transports.https import Certificate
from starlette.requests import Request


def _write(authority: Authority, path: Path) -> Path:
    """Write a chain with its key, of a time of its own."""
    identity = authority.server()
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(identity.key + identity.chain)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def _with_server(
    certificate: Certificate, authority: Authority, work: Callable[[int, ssl.SSLContext], Awaitable[None]]
) -> None:
    app = FastAPI()
    app.state.stopping = asyncio.Event()

    @app.get("/")
    async def scheme(request: Request) -> str:
        return request.url.scheme

    async def story() -> None:
        server, port = await serve(app, "127.0.0.1", 0, certificate)
        try:
            await work(port, ssl.create_default_context(cadata=authority.certificate.decode()))
        finally:
            await server.stop()

    asyncio.run(story())


async def _shown(port: int, trust: ssl.SSLContext) -> bytes:
    """Return the certificate (DER) that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


def test_with_a_certificate_the_port_speaks_tls_alone(authority: Authority, tmp_path: Path) -> None:
    async def work(port: int, trust: ssl.SSLContext) -> None:
        async with httpx.AsyncClient(verify=trust) as client:
            assert (await client.get(f"https://127.0.0.1:{port}/")).json() == "https"
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://127.0.0.1:{port}/")

    _with_server(Certificate(_write(authority, tmp_path / "hub.pem")), authority, work)


def test_renewed_files_are_shown_to_connections_from_then_on(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(authority, tmp_path / "hub.pem")
    certificate = Certificate(path)

    async def work(port: int, trust: ssl.SSLContext) -> None:
        first = await _shown(port, trust)
        certificate.refresh()
        assert await _shown(port, trust) == first
        path.write_bytes(b"half of a f")
        certificate.refresh()
        assert await _shown(port, trust) == first
        assert "goes on with the certificate of before" in caplog.text
        _write(authority, path)
        certificate.refresh()
        assert await _shown(port, trust) != first

    with caplog.at_level(logging.WARNING):
        _with_server(certificate, authority, work)


def test_a_certificate_that_cannot_be_used_ends_the_start_and_says_why(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.server(), authority.server()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(one.chain)
    key.write_bytes(one.key)
    Certificate(chain, key)
    key.write_bytes(other.key)
    for wrong in (key, tmp_path / "none.pem", None):
        with pytest.raises(InvalidInput, match=r"chain\.pem with the key in .* cannot be used"):
            Certificate(chain, wrong)
    with pytest.raises(InvalidInput, match="name its --https-certificate too"):
        Hub(Settings(data_dir=tmp_path / "hub", https_key=key))


def test_a_hub_with_a_certificate_says_https_wherever_it_names_its_pages(authority: Authority, tmp_path: Path) -> None:
    hub = Hub(Settings(data_dir=tmp_path / "hub", https_certificate=_write(authority, tmp_path / "hub.pem")))
    try:
        assert hub.scheme == "https"
        assert hub.set_up_link.startswith("https://")
    finally:
        hub.close()
