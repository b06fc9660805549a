"""Let neighbours fetch what lies here: start the process that serves them (caching.py), and tell the hub where it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from milonga.pinning import fingerprint
from milonga.v1 import agent_pb2

from milonga_agent.errors import AgentError
from milonga_agent.keys import make_cache_certificate
from milonga_agent.outbox import Outbox
from milonga_agent.patience import backoff_seconds
from milonga_agent.processes import next_said
from milonga_agent.state import Store

_log = logging.getLogger(__name__)

_BACKLOG = 16
_STEADY_SECONDS = 60.0


@dataclass(frozen=True)
class CacheOptions:
    """Where the operator wants neighbours to be served, and how much of the line they may have (0: all)."""

    # Empty for all addresses of the machine.
    host: str = ""
    port: int = 0
    kbps: float = 0.0


class Cache:
    """The process and what the hub knows of it. `await cache.run()` works until it is cancelled."""

    def __init__(self, store: Store, blobs: Path, options: CacheOptions, outbox: Outbox) -> None:
        self._store = store
        self._blobs = blobs
        self._options = options
        self._outbox = outbox
        self.process: asyncio.subprocess.Process | None = None
        self._port = 0
        self._certificate_sha256 = b""
        self.key = b""
        self._random = random.Random()

    def tell(self) -> None:
        """Tell the hub where neighbours are served, or that they are not."""
        if self._outbox.is_open:
            told = agent_pb2.Cache()
            if self.process is not None:
                told.certificate_sha256 = self._certificate_sha256
                told.addresses.append(self._address())
            self._outbox.send(cache=told)

    def use(self, key: agent_pb2.CacheKey) -> None:
        """Know neighbours' tickets by this key."""
        self.key = json.dumps({"key": key.key.hex(), "now": key.now.ToNanoseconds() / 1e9}).encode() + b"\n"
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self.process.stdin.write(self.key)

    async def run(self) -> None:
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._serve()
            except (AgentError, OSError) as error:
                _log.error("neighbours are not served: %s", error)
            # One that served for a while has nothing to do with the one before.
            failures = 1 if asyncio.get_running_loop().time() - began > _STEADY_SECONDS else failures + 1
            await asyncio.sleep(backoff_seconds(failures, self._random))

    async def _serve(self) -> None:
        """Start the process, and return when it has ended."""
        certificate = await make_cache_certificate(self._store.folder)
        self._certificate_sha256 = certificate_sha256(certificate.read_text(encoding="ascii"))
        with _listen(self._options.host, self._options.port) as listening:
            self._port = listening.getsockname()[1]
            self.process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "milonga_agent.caching", "--folder", str(self._blobs),
                "--certificate", str(certificate), "--authority", str(self._store.authority_path),
                "--socket", str(listening.fileno()), "--kbps", str(self._options.kbps),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[listening.fileno()],
            )  # fmt: skip
        try:
            # The hub answers with a key, and only then can anybody have a ticket.
            self.tell()
            assert process.stdout is not None
            while (said := await next_said(process.stdout)) is not None:
                _log.info("sent %s %.2f MB of %s...", said["device"], said["sent_bytes"] / 1e6, said["digest"][:19])
            _log.warning("the process that serves neighbours ended with %s", await process.wait())
        finally:
            self.process = None
            self.tell()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _address(self) -> str:
        """Return where neighbours reach this device: on the network by which it reaches the hub, unless the operator says."""
        host = self._options.host
        if not host or host in ("0.0.0.0", "::"):  # noqa: S104
            identity = self._store.identity()
            assert identity is not None
            host = _local_address(identity.hub.rpartition(":")[0].strip("[]"), identity.device_port)
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"


def _local_address(host: str, port: int) -> str:
    """Return the address of this machine on the way to a host, to which nothing is sent. Raises OSError."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def _listen(host: str, port: int) -> socket.socket:
    try:
        if host:
            return socket.create_server((host, port), backlog=_BACKLOG, family=_family(host))
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), backlog=_BACKLOG, family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port), backlog=_BACKLOG)
    except OSError as error:
        raise AgentError(f"port {port}: {error.strerror}; choose another with --cache-port") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def certificate_sha256(pem: str) -> bytes:
    """Return by what the hub and neighbours know the certificate."""
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])
    return bytes.fromhex(fingerprint(der).partition(":")[2])
