"""Passwords: Argon2id, with the memory of RFC 9106's second recommendation, a few at a time."""

from __future__ import annotations

import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# Each takes 64 MiB for its time: strangers who guess must not fill the memory.
_AT_A_TIME = threading.BoundedSemaphore(2)


class Passwords:
    """Hashes and checks passwords. Both take some 50 ms on purpose: call them beside the event loop."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._nobodys = ""

    def hash(self, password: str) -> str:
        with _AT_A_TIME:
            return self._hasher.hash(password)

    def matches(self, kept: str | None, password: str) -> bool:
        """Return whether this is the password; `kept` is None for nobody's, which takes as long as a wrong one."""
        if not self._nobodys:
            self._nobodys = self.hash(secrets.token_urlsafe())
        with _AT_A_TIME:
            try:
                return self._hasher.verify(kept or self._nobodys, password) and kept is not None
            except (VerificationError, InvalidHashError):
                return False

    def is_outdated(self, kept: str) -> bool:
        """Return whether a newer version of the hub hashes with more care."""
        return self._hasher.check_needs_rehash(kept)
