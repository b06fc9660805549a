"""Which hubs a program on this machine believes: that of the machine itself, and others by their fingerprint."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path

from milonga.client.errors import HubError, NotTrusted, Unreachable, unreachable
from milonga.pinning import NotPinned, authority_of

FINGERPRINT_VARIABLE = "MILONGA_HUB_FINGERPRINT"


class NoAddress(HubError):
    """The address of the hub is none."""


def shown_authority(address: str, wanted: str = "") -> str:
    """Return the authority (PEM) that the hub shows; with `wanted`, only the one with that fingerprint.

    Raises NoAddress, NotTrusted or Unreachable.
    """
    host, port = _host_and_port(address)
    try:
        return authority_of(host, port, wanted)
    except NotPinned as error:
        raise NotTrusted(str(error)) from error
    except OSError as error:
        raise Unreachable(unreachable(address)) from error


def keep(address: str, authority: str) -> Path:
    """Believe the hub at this address from now on; return where that is written."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**_kept(), address: authority}, indent=1), encoding="utf-8")
    return path


def trusted_authority(address: str) -> str:
    """Return the authority (PEM) of the hub. Raises NotTrusted for a hub that nobody has vouched for, and what
    shown_authority raises.
    """
    host, _ = _host_and_port(address)
    wanted = os.environ.get(FINGERPRINT_VARIABLE, "")
    if wanted:
        return shown_authority(address, wanted)
    kept = _kept().get(address)
    if kept:
        return kept
    if not is_loopback(host):
        raise NotTrusted(
            f"nobody has vouched for the hub at {address} on this machine; compare its fingerprint with the one that"
            f" `milonga up` printed there: milonga trust {address}"
        )
    # Whoever could answer in its place runs on this machine already.
    return shown_authority(address)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise NoAddress(f"{address!r} is not the address of a hub; write HOST:PORT")
    return host.strip("[]"), int(port)


def _kept() -> dict[str, str]:
    try:
        kept: dict[str, str] = json.loads(_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return kept


def _path() -> Path:
    return config_folder() / "hubs.json"


def config_folder() -> Path:
    """Return where programs of this user keep what they know of hubs."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "milonga"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
