"""Keys in files: one private key each, readable by their owner alone, so that they can be carried away."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from milonga_hub.errors import AlreadyExists, InvalidInput

# As much of a key's id as its file is called by: enough that no two ever meet.
_NAME_LENGTH = 16


def short(keyid: str) -> str:
    """Return the part of a key's id that people see, and that names its file."""
    return keyid[:_NAME_LENGTH]


def generate(folder: Path) -> CryptoSigner:
    """Make an Ed25519 key in the folder: ID.pem is secret, ID.pub is for the hub."""
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private)
    name = short(signer.public_key.keyid)
    write_private(folder / f"{name}.pem", signer.private_bytes)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / f"{name}.pub").write_bytes(public)
    return signer


def write_private(path: Path, data: bytes) -> None:
    """Write a key that nobody else may read, and that no power cut loses. Raises AlreadyExists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise AlreadyExists(f"{path} exists already, and a key is never written over; choose another place") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> CryptoSigner:
    """Return the signer of a key file. Raises InvalidInput saying what is wrong with it."""
    try:
        data = path.read_bytes()
        if b"PUBLIC KEY" in data:
            raise InvalidInput(f"{path} is a public key; who signs needs the private one, {path.stem}.pem")
        return CryptoSigner(serialization.load_pem_private_key(data, None))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} is not a private key that can be used: {error}") from error


def read_public(path: Path) -> Key:
    """Return a public key, from its own file or from that of the private one. Raises InvalidInput."""
    try:
        data = path.read_bytes()
        if b"PRIVATE" in data:
            return read_private(path).public_key
        public: PublicKeyTypes = serialization.load_pem_public_key(data)
        return SSlibKey.from_crypto(public)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} is not a public key that can be used: {error}") from error


class KeyRing:
    """The private keys that lie on the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def generate(self) -> CryptoSigner:
        return generate(self.folder)

    def holds(self, keyid: str) -> bool:
        return self._path(keyid).exists()

    def signers(self, keys: Iterable[Key]) -> list[CryptoSigner]:
        """Return signers for those of the keys that are here."""
        return [read_private(self._path(key.keyid)) for key in keys if self.holds(key.keyid)]

    def export(self, keyid: str, folder: Path) -> Path:
        """Move a key away: it is removed here once its copy is on disk. Returns where it is now."""
        here = self._path(keyid)
        there = folder / here.name
        write_private(there, here.read_bytes())
        if there.read_bytes() != here.read_bytes():
            raise InvalidInput(f"{there} does not hold what was written; the key stays in {here}")
        here.unlink()
        return there

    def _path(self, keyid: str) -> Path:
        return self.folder / f"{short(keyid)}.pem"
