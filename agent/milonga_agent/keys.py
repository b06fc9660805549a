"""Make the device's key, in a process of its own: the library for it takes 10 MB that the daemon does without.

python -m milonga_agent.keys FOLDER          writes key.pem, which never leaves the device, and request.der, which the hub signs
python -m milonga_agent.keys FOLDER --cache  writes cache.pem, another key and its certificate, for serving neighbours
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from milonga.ending import die_with_parent

from milonga_agent.errors import AgentError
from milonga_agent.files import write_atomically

KEY = "key.pem"
REQUEST = "request.der"
CACHE = "cache.pem"


async def make_request(folder: Path) -> bytes:
    """Return the request for a certificate of the key in the folder; both are made where they are missing."""
    path = folder / REQUEST
    if not path.exists():
        await _run(folder)
    return path.read_bytes()


async def make_cache_certificate(folder: Path) -> Path:
    """Return where the certificate for serving neighbours and its key lie; they are made where they are missing."""
    path = folder / CACHE
    if not path.exists():
        await _run(folder, "--cache")
    return path


async def _run(folder: Path, *more: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "milonga_agent.keys", str(folder), *more, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise AgentError(f"the device's key cannot be made: {errors.decode(errors='replace').strip()[-500:]}")


def make(folder: Path) -> None:
    """Make the key unless it is there, and the request for it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = folder / KEY
    if not path.exists():
        write_atomically(path, new_key(), 0o600)
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AgentError(f"{path} is no P-256 key; remove it and enrol this device again")
    write_atomically(folder / REQUEST, request_for(key))


def make_for_cache(folder: Path) -> None:
    """Make a key and a certificate by itself, which nobody believes who was not told its digest."""
    from datetime import datetime, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Milonga cache")])
    # Nobody looks at its time.
    begin, end = (datetime(year, 1, 1, tzinfo=timezone.utc) for year in (1970, 2100))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomically(folder / CACHE, pem + certificate.public_bytes(serialization.Encoding.PEM), 0o600)


def new_key() -> bytes:
    """Return a new key as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request_for(key: Any) -> bytes:
    """Return the request (PKCS #10 in DER) for a certificate of a P-256 key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    # The hub decides on the name; it knows the device by the key.
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


if __name__ == "__main__":
    # The agent that starts after one that was killed makes its own; two at once could leave a request for another's key.
    die_with_parent()
    (make_for_cache if sys.argv[2:] == ["--cache"] else make)(Path(sys.argv[1]))
