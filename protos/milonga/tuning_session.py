"""What lets a device run kernels that a hub made while it tunes: a session, which is signed as bundles are, and its key.

A session names a key; what that key signs may be timed on devices until the session ends. So the owners of a project's keys allow a
tuning once, and not every few kernels of it. Standard library only: whoever verifies has a library for keys of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

_KIND = "tuning"
# So that no signature made for anything else is one of kernels.
_PREFIX = "milonga tuning session"


@dataclass(frozen=True)
class Session:
    """`public_key` is that of a P-256 key, in PEM; `ends_at` is in seconds since 1970."""

    project: str
    device_type: str
    public_key: str
    ends_at: float

    def as_json(self) -> bytes:
        return json.dumps({"kind": _KIND, **asdict(self)}, indent=1, sort_keys=True).encode()


def read_session(text: bytes) -> Session:
    """Return the session. Raises ValueError for what is none, such as the manifest of a bundle."""
    try:
        said = json.loads(text)
        if said["kind"] != _KIND:
            raise ValueError("it is of another kind")
        return Session(str(said["project"]), str(said["device_type"]), str(said["public_key"]), float(said["ends_at"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no tuning session: {error}") from error


def signed_words(session_digest: str, kernels_digest: str) -> bytes:
    """Return what the session's key signs, ECDSA with SHA-256, for a device to time these kernels."""
    return f"{_PREFIX}\n{session_digest}\n{kernels_digest}\n".encode()
