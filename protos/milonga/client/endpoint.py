"""Which hub a client talks to, by what authority it knows it, and who it is there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from milonga.client import keys, trust
from milonga.client.keys import Key

ADDRESS_VARIABLE = "MILONGA_HUB"
DEFAULT_ADDRESS = "127.0.0.1:8443"


@dataclass(frozen=True)
class Endpoint:
    """A hub that somebody has vouched for."""

    # HOST:PORT of its gRPC server.
    address: str
    # PEM.
    authority: str
    key: Key = field(repr=False)


def find(address: str = "", key: str | None = None, fingerprint: str = "") -> Endpoint:
    """Return the hub at the address, known as the command line knows it.

    `address`: else MILONGA_HUB, else 127.0.0.1:8443. `key`: else MILONGA_API_KEY, what `milonga login` kept for the hub,
    or the local key of a hub on this machine; "" makes a stranger. `fingerprint`: of the hub's authority; else
    MILONGA_HUB_FINGERPRINT or what `milonga trust` kept; a hub on this machine needs none.

    Raises trust.NoAddress, NotTrusted or Unreachable.
    """
    address = address or os.environ.get(ADDRESS_VARIABLE, "") or DEFAULT_ADDRESS
    authority = trust.shown_authority(address, fingerprint) if fingerprint else trust.trusted_authority(address)
    return Endpoint(address, authority, keys.key_for(address, authority) if key is None else lambda: key)
