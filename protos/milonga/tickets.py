"""Leave to fetch one blob from a neighbour: the hub gives it to one device, and the neighbour checks it without asking.

Standard library only. A ticket says when it ends, by the hub's clock; a key that the hub shares with that neighbour alone seals it
together with the device and the blob that it is for.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

_KEY_BYTES = 32
_MOST_LETTERS = 200


def new_key() -> bytes:
    """Return a key for the tickets of one neighbour."""
    return secrets.token_bytes(_KEY_BYTES)


def issue(key: bytes, device: str, digest: str, ends_at: int) -> str:
    """Return a ticket with which the device may fetch the blob until then, in seconds since 1970."""
    return f"{ends_at}.{_seal(key, device, digest, str(ends_at))}"


def is_good(key: bytes, ticket: str, device: str, digest: str, now: float) -> bool:
    """Say whether this device may fetch this blob with this ticket now."""
    ends_at, _, seal = ticket.partition(".")
    if len(ticket) > _MOST_LETTERS or not ticket.isascii() or not ends_at.isdigit():
        return False
    return hmac.compare_digest(seal, _seal(key, device, digest, ends_at)) and now < int(ends_at)


def _seal(key: bytes, *about: str) -> str:
    return hmac.new(key, "\n".join(about).encode(), hashlib.sha256).hexdigest()
