"""By which address other machines reach this hub, for commands that are copied to them."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    # To import it takes the command line a fifth of its start.
    from milonga_hub.settings import Settings

# Of a net for documentation (RFC 5737): a route to it shows which of our addresses is used. Nothing is sent.
_ELSEWHERE = ("203.0.113.1", 9)


def is_loopback(host: str) -> bool:
    """Say whether the name or address, without a port, is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_for_others(asked: str, listens_on: str) -> tuple[str, bool]:
    """Return "host:port" for other machines, and whether they can reach it.

    `asked` is the address by which a browser reached the hub, which is right unless the browser runs on the hub's own
    machine; `listens_on` is the hub's setting `host`.
    """
    parts = urlsplit(f"//{asked}")
    if not is_loopback(parts.hostname or ""):
        return asked, True
    if is_loopback(listens_on):
        return asked, False
    found = _outward_address()
    return (asked, False) if found is None else (f"{found}:{parts.port}" if parts.port else found, True)


def whereabouts(data_dir: Path) -> dict[str, Any] | None:
    """Return what the hub of a data folder wrote down of where it listens (see App.running), or None where it does not run."""
    try:
        known: dict[str, Any] = json.loads((data_dir / "hub.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known


def pages_for_others(settings: Settings) -> tuple[str, bool]:
    """Return the address of the pages of a hub on this machine for other machines, and whether they can reach it; of one that does not run as set."""
    scheme = "https" if settings.https_certificate else "http"
    known = whereabouts(settings.data_dir) or {"http": f"{settings.host}:{settings.http_port}", "scheme": scheme}
    host, _, port = str(known["http"]).rpartition(":")
    asked = f"127.0.0.1:{port}" if host == "0.0.0.0" else f"{host}:{port}"  # noqa: S104 (compared, not bound)
    address, is_reachable = address_for_others(asked, host)
    return f"{known.get('scheme', 'http')}://{address}", is_reachable


def _outward_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return None
        host = str(probe.getsockname()[0])
    return None if is_loopback(host) or host == "0.0.0.0" else host  # noqa: S104 (compared, not bound)
