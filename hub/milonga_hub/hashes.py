"""What is stored of secrets that the hub makes itself."""

from __future__ import annotations

import hashlib


def hash_of(secret: str | bytes) -> str:
    """Return what is stored of a secret. They are 256 random bits each, so one round of sha256 is enough."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()
