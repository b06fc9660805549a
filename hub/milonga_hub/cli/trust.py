"""Which hubs the command line believes: that of this machine, and others by their fingerprint (milonga trust)."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path

from milonga.pinning import NotPinned, authority_of

from milonga_hub.cli.failures import UNREACHABLE, USAGE, Refused

FINGERPRINT_VARIABLE = "MILONGA_HUB_FINGERPRINT"


def shown_authority(address: str, wanted: str = "") -> str:
    """Return the authority (PEM) that the hub shows; with `wanted`, only the one with that fingerprint."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise Refused(f"{address!r} is not the address of a hub; write HOST:PORT", USAGE)
    try:
        return authority_of(host.strip("[]"), int(port), wanted)
    except NotPinned as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise Refused(unreachable(address), UNREACHABLE) from error


def keep(address: str, authority: str) -> Path:
    """Believe the hub at this address from now on; return where that is written."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**_kept(), address: authority}, indent=1), encoding="utf-8")
    return path


def unreachable(address: str) -> str:
    return f"no answer from a hub at {address}; start one with: milonga up, or name yours with --hub or MILONGA_HUB"


def trusted_authority(address: str) -> str:
    """Return the authority (PEM) of the hub. Raises Refused for a hub that nobody has vouched for."""
    wanted = os.environ.get(FINGERPRINT_VARIABLE, "")
    if wanted:
        return shown_authority(address, wanted)
    kept = _kept().get(address)
    if kept:
        return kept
    if not is_loopback(address.rpartition(":")[0]):
        raise Refused(
            f"nobody has vouched for the hub at {address} on this machine; compare its fingerprint with the one that"
            f" `milonga up` printed there: milonga trust {address}"
        )
    # Whoever could answer in its place runs on this machine already.
    return shown_authority(address)


def _kept() -> dict[str, str]:
    try:
        kept: dict[str, str] = json.loads(_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return kept


def _path() -> Path:
    return config_folder() / "hubs.json"


def config_folder() -> Path:
    """Return where the command line keeps what it knows of hubs."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "milonga"


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
