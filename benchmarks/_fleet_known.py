"""Two known hubs to hold Milonga's against: Flower's SuperLink and RDFM's management server, as their projects start them.

`make bench-peers` fetches both into .bench/; one that is not there is left out. Both are spared work that Milonga's hub does:
they speak HTTP without TLS and sign no certificates.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks._meter import Meter

FOLDER = Path(__file__).parents[1] / ".bench"
# How long each may take to start, in seconds, and how many requests are under way at a time.
_PATIENCE_SECONDS, _AT_A_TIME = 120.0, 32
_TRIES = 3
# What both are told about how often a device beats, in seconds.
_INTERVAL_SECONDS = 30.0


@dataclass(frozen=True)
class Costs:
    """CPU time of a known hub's processes, in milliseconds a device and a sign of life."""

    name: str
    enrolment_ms: float
    beat_ms: float


async def known_hubs(folder: Path, devices: int, beats: int) -> AsyncIterator[Costs]:
    """Yield the costs of each known hub that is here, for so many devices that each send so many signs of life."""
    for hub in (_SuperLink, _Rdfm):
        if not hub.installed():
            print(f"{hub.name} is not in {FOLDER.name}/: left out (make bench-peers)", flush=True)
            continue
        place = folder / hub.__name__.strip("_").lower()
        place.mkdir()
        with _serving(hub, place) as (url, pid):
            async with httpx.AsyncClient(base_url=url, timeout=60.0) as client:
                yield await _costs(hub(client), Meter(pid), devices, beats)


@contextlib.contextmanager
def _serving(hub: type[_SuperLink | _Rdfm], place: Path) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            hub.command(place, port), env=hub.environment(place, port), cwd=place, stdout=log, stderr=log
        )
    try:
        _wait_for(port, process, place / "log")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < ends:
        # A listening socket is not yet an answer: gunicorn listens before its worker has started.
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/", timeout=_PATIENCE_SECONDS)
            return
        time.sleep(0.2)
    raise RuntimeError(f"{log.parent.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")


async def _costs(hub: _SuperLink | _Rdfm, meter: Meter, devices: int, beats: int) -> Costs:
    await _many(hub.enrol, range(devices, devices + 10))
    enrolment = await meter.of(lambda: _many(hub.enrol, range(devices)))

    async def beaten(number: int) -> None:
        # Both close connections under load now and then, or start a worker anew; a device then says it again.
        for _ in range(_TRIES - 1):
            with contextlib.suppress(httpx.TransportError):
                return await hub.beat(number)
        return await hub.beat(number)

    async def all_beats() -> None:
        for _ in range(beats):
            await _many(beaten, range(devices))

    beat = await meter.of(all_beats)
    return Costs(hub.name, 1e3 * enrolment / devices, 1e3 * beat / (devices * beats))


async def _many(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    waiting = iter(numbers)

    async def one() -> None:
        for number in waiting:
            await work(number)

    await asyncio.gather(*(one() for _ in range(_AT_A_TIME)))


class _SuperLink:
    """Flower's: protobuf over HTTP, each call signed; a node registers and activates itself, then sends heartbeats."""

    name = "Flower's SuperLink"

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._keys: dict[int, ec.EllipticCurvePrivateKey] = {}
        self._nodes: dict[int, bytes] = {}

    @staticmethod
    def installed() -> bool:
        return (FOLDER / "flower" / "bin" / "flower-superlink").exists()

    @staticmethod
    def command(place: Path, port: int) -> list[str]:
        options = ["--isolation", "process", "--disable-runtime-dependency-installation"]
        database = str(place / "state.db")
        program = str(FOLDER / "flower" / "bin" / "flower-superlink")
        return [program, "--insecure", "--database", database, "--port", str(port), *options]

    @staticmethod
    def environment(place: Path, port: int) -> dict[str, str]:
        return {**os.environ, "FLWR_HOME": str(place), "FLWR_TELEMETRY_ENABLED": "0"}

    async def enrol(self, number: int) -> None:
        key = self._keys[number] = ec.generate_private_key(ec.SECP384R1())
        wish = _bytes_field(1, _pem(key))
        answer = await self._call(number, "register-node", wish)
        # The only field of the answer is the node's number, which every later message names as it came.
        self._nodes[number] = _bytes_field(1, answer)
        await self._call(number, "activate-node", wish + _INTERVAL)

    async def beat(self, number: int) -> None:
        await self._call(number, "send-node-heartbeat", self._nodes[number] + _INTERVAL)

    async def _call(self, number: int, path: str, content: bytes) -> bytes:
        now = datetime.now(UTC).isoformat()
        signature = self._keys[number].sign(now.encode(), ec.ECDSA(hashes.SHA256()))
        headers = {
            "content-type": "application/protobuf",
            "accept": "application/protobuf",
            "flwr-public-key": base64.b64encode(_pem(self._keys[number])).decode(),
            "flwr-timestamp": now,
            "flwr-signature": base64.b64encode(signature).decode(),
        }
        answer = await self._client.post(f"/v1/fleet/{path}", content=content, headers=headers)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:200]}"
        return answer.content


def _bytes_field(number: int, value: bytes) -> bytes:
    """Return a field of bytes, or an embedded message, as protobuf writes it."""
    size = bytes((len(value),)) if len(value) < 128 else bytes((len(value) & 127 | 128, len(value) >> 7))
    return bytes((number << 3 | 2,)) + size + value


# Field 2 of both messages: a double.
_INTERVAL = b"\x11" + struct.pack("<d", _INTERVAL_SECONDS)


class _Rdfm:
    """RDFM's: JSON over HTTP; a device shows its key, an administrator lets it in, it gets a token and asks for updates."""

    name = "RDFM's management server"

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._tokens: dict[int, str] = {}
        # One key for all: making keys is the devices' work, and the server looks up address and key together.
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._public = _pem(self._key).decode().strip()

    @staticmethod
    def installed() -> bool:
        return (FOLDER / "rdfm" / "bin" / "gunicorn").exists()

    @staticmethod
    def command(place: Path, port: int) -> list[str]:
        config = FOLDER / "rdfm-source" / "server" / "deploy" / "gunicorn.conf.py"
        factory = "rdfm_mgmt_server:setup_with_config_from_env()"
        return [str(FOLDER / "rdfm" / "bin" / "gunicorn"), "-k", "gevent", "-c", str(config), factory]

    @staticmethod
    def environment(place: Path, port: int) -> dict[str, str]:
        source = FOLDER / "rdfm-source"
        path = [source / "server" / "src", source / "common" / "communication" / "src"]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "JWT_SECRET": "benchmark",
            "RDFM_API_PORT": str(port),
            "RDFM_DB_CONNSTRING": f"sqlite:///{place / 'devices.db'}",
            "RDFM_DISABLE_API_AUTH": "1",
            "RDFM_DISABLE_ENCRYPTION": "1",
            "RDFM_HOSTNAME": "127.0.0.1",
            "RDFM_LOCAL_PACKAGE_DIR": str(place / "packages"),
        }

    async def enrol(self, number: int) -> None:
        await self._show_key(number, 401)
        wish = {"mac_address": _address(number), "public_key": self._public}
        answer = await self._client.post("/api/v1/auth/register", json=wish)
        answer.raise_for_status()
        self._tokens[number] = (await self._show_key(number, 200)).json()["token"]

    async def _show_key(self, number: int, expected: int) -> httpx.Response:
        about = {"metadata": _about(number), "public_key": self._public, "timestamp": int(time.time())}
        body = json.dumps(about).encode()
        signature = base64.b64encode(self._key.sign(body, padding.PKCS1v15(), hashes.SHA256())).decode()
        headers = {"content-type": "application/json", "x-rdfm-device-signature": signature}
        answer = await self._client.post("/api/v1/auth/device", content=body, headers=headers)
        assert answer.status_code == expected, f"{answer.status_code}: {answer.text[:200]}"
        return answer

    async def beat(self, number: int) -> None:
        headers = {"authorization": f"Bearer token={self._tokens[number]}"}
        answer = await self._client.post("/api/v1/update/check", json=_about(number), headers=headers)
        assert answer.status_code == 204, f"{answer.status_code}: {answer.text[:200]}"


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _address(number: int) -> str:
    return ":".join(f"{byte:02x}" for byte in number.to_bytes(6, "big"))


def _about(number: int) -> dict[str, str]:
    return {
        "rdfm.software.version": "v1",
        "rdfm.hardware.devtype": "bench",
        "rdfm.hardware.macaddr": _address(number),
    }
