"""What lets devices time kernels of a project's tunings: a session, signed as builds are, and the key that it names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from milonga.tuning_session import Session, read_session, signed_words

from milonga_hub.authority import write_secret
from milonga_hub.blobs import Blobs, digest_of
from milonga_hub.db import utc_now
from milonga_hub.devices.models import File
from milonga_hub.errors import FailedPrecondition

# Owners of keys that are not on the hub sign once for so long.
_LIFETIME = timedelta(days=7)
# What is left of one that a tuning begins with.
_LEAST = timedelta(days=1)


class Signer(Protocol):
    """What sessions need of SigningService."""

    def sign(self, project: str, bundles: Mapping[str, int]) -> None: ...
    def is_signed(self, project: str, bundle: str) -> bool: ...


@dataclass(frozen=True)
class OpenSession:
    """A session that devices trust, and its private key."""

    file: File
    key: ec.EllipticCurvePrivateKey

    def sign(self, kernels_digest: str) -> bytes:
        """Return the signature with which devices time these kernels."""
        return self.key.sign(signed_words(self.file.digest, kernels_digest), ec.ECDSA(hashes.SHA256()))


class TuningSessions:
    """One for each project and device type at a time, in a folder that nobody else reads."""

    def __init__(self, folder: Path, blobs: Blobs, signer: Signer, clock: Callable[[], datetime] = utc_now) -> None:
        self._folder = folder
        self.blobs = blobs
        self._signer = signer
        self._clock = clock

    def open(self, project: str, device_type: str) -> OpenSession:
        """Return the session, which is begun where there is none that lasts.

        Raises FailedPrecondition while it lacks a signature without which no device runs what it is for.
        """
        path = self._folder / f"{project}--{device_type}.json"
        found = self._kept(path) or self._begun(path, project, device_type)
        self._signer.sign(project, {found.file.digest: found.file.size_bytes})
        if not self._signer.is_signed(project, found.file.digest):
            raise FailedPrecondition(
                f"tuning on devices of type {device_type} is not signed yet by keys that are not on this hub; see milonga keys"
                " status, sign what waits, then start the build again, or: milonga runs resume RUN"
            )
        return found

    def _kept(self, path: Path) -> OpenSession | None:
        if not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="ascii"))
        text = kept["session"].encode()
        if read_session(text).ends_at < (self._clock() + _LEAST).timestamp():
            return None
        key = serialization.load_pem_private_key(kept["key"].encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return self._opened(text, key)

    def _begun(self, path: Path, project: str, device_type: str) -> OpenSession:
        key = ec.generate_private_key(ec.SECP256R1())
        formats = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        public = key.public_key().public_bytes(*formats).decode()
        text = Session(project, device_type, public, (self._clock() + _LIFETIME).timestamp()).as_json()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_secret(path, json.dumps({"session": text.decode(), "key": private}).encode())
        return self._opened(text, key)

    def _opened(self, text: bytes, key: ec.EllipticCurvePrivateKey) -> OpenSession:
        # Again each time: what nothing in the database names is collected one day.
        self.blobs.put(text)
        return OpenSession(File(path="session.json", digest=digest_of(text), size_bytes=len(text)), key)
