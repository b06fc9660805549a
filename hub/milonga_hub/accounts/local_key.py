"""The hub's local key: who may read the hub's data folder is its admin, without an account.

The file holds `mlocal_SECRET.FINGERPRINT`; the command line sends the secret only to the hub whose authority has that
fingerprint, so that nobody who listens on the hub's port while it is away gets it.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

FILE_NAME = "local.key"
PREFIX = "mlocal_"


class LocalKey:
    """Made anew at each start of the hub, in a file that only the hub's user may read."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = (folder / FILE_NAME).absolute()
        self._secret = PREFIX + secrets.token_urlsafe(32)
        temporary = self.path.with_name(f".{FILE_NAME}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{self._secret}.{fingerprint.removeprefix('sha256:')}\n")
        temporary.replace(self.path)

    def is_this(self, secret: str) -> bool:
        """Return whether it is the key, or that of a hub which shares the folder and began later."""
        return any(hmac.compare_digest(known.encode(), secret.encode()) for known in (self._secret, self._newest()))

    def _newest(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8").partition(".")[0] or self._secret
        except OSError:
            return self._secret
