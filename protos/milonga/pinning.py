"""Which hub to believe: its certificate authority is known by a fingerprint that came by another way.

Standard library only, from Python 3.9 on: its ssl module shows a server's chain from 3.13 on. TLS 1.2 sends the chain in
the clear (RFC 5246, section 7.4.2), so that it is read from the bytes of a handshake that this side limits to 1.2.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterator

# What every hub's certificate is made out to, wherever the hub is reached; the authority tells hubs apart.
HUB_NAME = "milonga-hub"

_HANDSHAKE, _CERTIFICATE = 22, 11
# A chain of two is below 1 kB.
_MAX_BYTES = 64 * 1024


class NotPinned(Exception):
    """The hub's authority is not the one that was expected; the message says what was found."""


def fingerprint(der: bytes) -> str:
    """Return "sha256:" and the digest of a certificate or public key in DER."""
    return "sha256:" + hashlib.sha256(der).hexdigest()


def pin_of(join_token: str) -> str:
    """Return the fingerprint that a join token carries behind its dot, empty for none."""
    digest = join_token.partition(".")[2]
    return f"sha256:{digest}" if digest else ""


def authority_of(host: str, port: int, wanted: str = "", timeout_seconds: float = 10.0) -> str:
    """Return the certificate (PEM) of the authority that the hub there shows; with `wanted`, only the one with that print.

    Without `wanted` anybody on the way may have answered. Raises NotPinned, or OSError where nobody answers in TLS.
    """
    authority = presented_chain(host, port, timeout_seconds)[-1]
    found = fingerprint(authority)
    if wanted and not hmac.compare_digest(found, wanted.strip().lower()):
        raise NotPinned(
            f"{host}:{port} shows the authority {found}, and {wanted} was expected: this is another hub,"
            " or somebody between here and the hub"
        )
    return ssl.DER_cert_to_PEM_cert(authority)


def presented_chain(host: str, port: int, timeout_seconds: float = 10.0) -> list[bytes]:
    """Return the certificates (DER) that a server shows, its own first. Nothing about them is checked. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])  # gRPC speaks with nobody else.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=HUB_NAME)
    seen = b""
    with socket.create_connection((host, port), timeout_seconds) as connection:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            connection.sendall(outgoing.read())
            chain = _certificates(seen)
            if chain:
                return chain
            received = connection.recv(_MAX_BYTES)
            if not received or len(seen) > _MAX_BYTES:
                raise OSError(f"{host}:{port} does not answer in TLS")
            seen += received
            incoming.write(received)


def _certificates(seen: bytes) -> list[bytes]:
    """Return the certificates of the server's Certificate message, none while it has not come whole."""
    handshake = b"".join(_records(seen))
    position = 0
    while position + 4 <= len(handshake):
        kind, size = handshake[position], int.from_bytes(handshake[position + 1 : position + 4], "big")
        body = handshake[position + 4 : position + 4 + size]
        if kind == _CERTIFICATE and len(body) == size:
            return list(_listed(body[3:]))
        position += 4 + size
    return []


def _records(seen: bytes) -> Iterator[bytes]:
    """Yield the contents of the whole handshake records at the beginning."""
    position = 0
    while position + 5 <= len(seen) and seen[position] == _HANDSHAKE:
        end = position + 5 + int.from_bytes(seen[position + 3 : position + 5], "big")
        if end > len(seen):
            return
        yield seen[position + 5 : end]
        position = end


def _listed(body: bytes) -> Iterator[bytes]:
    position = 0
    while position + 3 <= len(body):
        size = int.from_bytes(body[position : position + 3], "big")
        yield body[position + 3 : position + 3 + size]
        position += 3 + size
