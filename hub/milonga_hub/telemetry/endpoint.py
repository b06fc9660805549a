"""Where a broker is."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from milonga_hub.errors import InvalidInput

_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerEndpoint:
    """Where a broker listens and who the hub is to it."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    # None for a broker that is asked without TLS.
    tls: ssl.SSLContext | None = None

    @classmethod
    def of_url(cls, url: str, tls: ssl.SSLContext | None = None) -> BrokerEndpoint:
        """Return the endpoint of "mqtts://user:password@host:8883", or mqtt:// without TLS, for a broker that runs on its own."""
        parts = urlsplit(url)
        try:
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError):
            port = 0
        if not parts.hostname or not port:
            # Without the password, which may be in it.
            shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            raise InvalidInput(f"{shown!r} is not a broker's address; write mqtts://user:password@host:8883")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.hostname, port, user, password, tls)
