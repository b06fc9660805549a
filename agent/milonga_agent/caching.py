"""The process that serves neighbours what lies in a folder of blobs: python -m milonga_agent.caching --help

It has the lowest priority, is the first to go where memory is short, and holds no key of the device. The daemon tells it in JSON
lines (stdin) by what it knows tickets, {"key": "0f...", "now": 1700000000.0}, and hears what was sent to whom (stdout).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import IO, Any

from milonga import tickets
from milonga.ending import die_with_parent
from milonga.throttling import Throttle
from milonga.waiting import within

_BLOB = re.compile(r"GET /blobs/(sha256:([0-9a-f]{64})) HTTP/1\.1")
_RANGE = re.compile(r"bytes=(\d{1,18})-")
_TICKET = "Ticket "
# At a time, of all neighbours together.
_MOST_SENDINGS = 16
# With those that have not yet said who they are.
_MOST_FILES = 96
# The process has 15 MB; each connection some hundred kilobytes.
_MOST_MEMORY_BYTES = 128 << 20
_PIECE_BYTES = 128 << 10
_HEAD_BYTES = 4096
# Who does not say who it is and what it wants within so long is none of ours.
_PATIENCE_SECONDS = 5.0
# A neighbour may take no more of its own line than its operator lets it.
_TAKEN_SECONDS = 30.0
# How long a file is waited for that is on its way here: shorter than neighbours wait.
_COMING_SECONDS = 3.0
_LOOK_SECONDS = 0.1


class Refused(Exception):
    """The answer is this HTTP status."""


class Server:
    """Serves blobs to those that have a certificate of the hub's authority and a ticket for the blob."""

    def __init__(self, folder: Path, throttle: Throttle) -> None:
        self._folder = folder
        self._throttle = throttle
        self._key: bytes | None = None
        # The hub's time less this machine's since it started, which nobody sets.
        self._ahead = 0.0
        self._sendings = 0
        self._open: set[asyncio.StreamWriter] = set()

    def use(self, key: bytes, now: float) -> None:
        """Know tickets by this key from now on; whoever came with one of another has to go."""
        if key != self._key:
            for writer in self._open:
                writer.transport.abort()
        self._key, self._ahead = key, now - time.monotonic()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one question of a connection."""
        self._open.add(writer)
        try:
            await self._answer(reader, writer)
        except Refused as refused:
            writer.write(f"HTTP/1.1 {refused} Refused\r\nConnection: close\r\n\r\n".encode())
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # It went away, or does not speak as agents do.
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await within(reader.readuntil(b"\r\n\r\n"), _PATIENCE_SECONDS)
        device = _device(writer.get_extra_info("peercert"))
        digest, offset = self.allowed(head.decode("latin-1"), device)
        if self._sendings >= _MOST_SENDINGS:
            raise Refused(503)
        self._sendings += 1
        try:
            await self._send(digest, offset, device, writer)
        finally:
            self._sendings -= 1

    def allowed(self, head: str, device: str) -> tuple[str, int]:
        """Return which blob is asked for, and from where on."""
        first, *lines = head.split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        asked, range_ = _BLOB.fullmatch(first), _RANGE.fullmatch(fields.get("range", ""))
        if asked is None or range_ is None:
            raise Refused(400)
        ticket = fields.get("authorization", "")
        if not ticket.startswith(_TICKET):
            raise Refused(403)
        ticket, now = ticket[len(_TICKET) :], time.monotonic() + self._ahead
        if self._key is None or not tickets.is_good(self._key, ticket, device, asked[1], now):
            raise Refused(403)
        return asked[1], int(range_[1])

    async def _send(self, digest: str, offset: int, device: str, writer: asyncio.StreamWriter) -> None:
        blob = self._folder / digest.partition(":")[2]
        sent, size = 0, min(_PIECE_BYTES, self._throttle.piece_bytes or _PIECE_BYTES)
        with await _opened(blob) as file:
            writer.write(b"HTTP/1.1 206 Partial Content\r\nConnection: close\r\n\r\n")
            file.seek(offset)
            try:
                while True:
                    piece = await _next(file, blob, size)
                    if not piece:
                        return
                    await self._throttle.take(len(piece))
                    writer.write(piece)
                    await within(writer.drain(), _TAKEN_SECONDS)
                    sent += len(piece)
            finally:
                _say({"sent_bytes": sent, "digest": digest, "device": device})


async def _opened(blob: Path) -> IO[bytes]:
    """Return the blob, or what is there of it while it is on its way here."""
    part = blob.with_name(f"{blob.name}.part")
    for _ in range(round(_COMING_SECONDS / _LOOK_SECONDS)):
        for path in (blob, part):
            with contextlib.suppress(FileNotFoundError):
                return path.open("rb")
        await asyncio.sleep(_LOOK_SECONDS)
    raise Refused(404)


async def _next(file: IO[bytes], blob: Path, size: int) -> bytes:
    """Return what comes next, empty at the end; of a file that is on its way here, wait for it."""
    for _ in range(round(_COMING_SECONDS / _LOOK_SECONDS)):
        # First: what was written last before it was whole must not be missed.
        whole = blob.exists()
        piece = file.read(size)
        if piece or whole:
            return piece
        await asyncio.sleep(_LOOK_SECONDS)
    return b""


def _device(certificate: Any) -> str:
    """Return the device's name in a certificate of the hub's authority, which TLS has checked."""
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                # Certificates from before brokers had a say began so.
                return str(value)[len("devices/") :] if str(value).startswith("devices/") else str(value)
    return ""


def _say(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="where blobs lie by digest")
    parser.add_argument("--certificate", required=True, help="PEM of this process's own certificate and its key")
    parser.add_argument("--authority", required=True, help="PEM of the authority of devices")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of a socket that listens")
    parser.add_argument("--kbps", type=float, required=True, help="most that is sent, in kbit/s; 0 for no limit")
    given = parser.parse_args()
    die_with_parent()
    _be_modest()
    server, listening = Server(given.folder, Throttle(given.kbps)), socket.socket(fileno=given.socket)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, listening, context(given.certificate, given.authority)))
    return 0


def context(certificate: str, authority: str) -> ssl.SSLContext:
    """Return what lets in devices of this authority alone."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(certificate)
    made.load_verify_locations(authority)
    return made


def _be_modest() -> None:
    """Give way to what answers requests."""
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_FILES if most == resource.RLIM_INFINITY else min(most, _MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))


async def _serve(server: Server, listening: socket.socket, tls: ssl.SSLContext) -> None:
    """Serve until stdin ends."""
    told = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    await asyncio.start_server(
        server.answer, sock=listening, ssl=tls, ssl_handshake_timeout=_PATIENCE_SECONDS, limit=_HEAD_BYTES
    )
    while True:
        line = await told.readline()
        if not line:
            return
        said = json.loads(line)
        server.use(bytes.fromhex(said["key"]), float(said["now"]))


if __name__ == "__main__":
    sys.exit(main())
