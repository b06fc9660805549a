"""Which devices are on the same network, and which of them may have a file. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from milonga_hub.devices.models import Assignment
from milonga_hub.errors import InvalidInput

# By this label an operator says who are neighbours, where the hub cannot see it.
LABEL = "network"
# How much of a private address the machines of one network have in common.
_PREFIXES = {4: 24, 6: 64}
# A device has one address for each of its networks.
_MOST_ADDRESSES = 8
_MOST_LETTERS = 100
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Cache:
    """Where a device serves its neighbours, as it says; without an address it does not."""

    addresses: tuple[str, ...] = ()
    certificate_sha256: bytes = b""


def check(cache: Cache, host: str) -> None:
    """Raise InvalidInput for what a device that comes from this host cannot serve at: others would be sent there."""
    if len(cache.addresses) > _MOST_ADDRESSES or not all(_is_address(each) for each in cache.addresses):
        raise InvalidInput(f"Cache.addresses must be up to {_MOST_ADDRESSES} of the form ADDRESS:PORT")
    if elsewhere := [each for each in cache.addresses if not _is_near(_host(each), host)]:
        raise InvalidInput(f"{elsewhere[0]} is neither on a private network nor at {host}, where the device is")
    if cache.addresses and len(cache.certificate_sha256) != _DIGEST_BYTES:
        raise InvalidInput(f"Cache.certificate_sha256 must have {_DIGEST_BYTES} bytes")


def _host(address: str) -> str:
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _is_near(told: str, seen: str) -> bool:
    """Say whether neighbours of a device that the hub sees there may be sent to the address that it tells."""
    address = ipaddress.ip_address(told)
    try:
        at = _address(seen)
    except ValueError:
        return True  # Not by IP.
    if address.is_unspecified or address.is_multicast or (address.is_loopback and not at.is_loopback):
        return False
    return address.is_private or address == at


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address behind what a socket says. Raises ValueError."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_address(text: str) -> bool:
    port = text.rpartition(":")[2]
    try:
        ipaddress.ip_address(_host(text))
    except ValueError:
        return False
    return len(text) <= _MOST_LETTERS and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16


def network_of(labels: Mapping[str, str], host: str) -> str:
    """Return what devices of one network have in common: their label, or else where the hub sees them come from.

    Behind a router that translates addresses they come from one address; where nothing translates, from one private network.
    """
    if labels.get(LABEL):
        return f"{LABEL}={labels[LABEL]}"
    try:
        address = _address(host)
    except ValueError:
        return host
    # Carriers' translators (100.64.0.0/10) are neither private nor global.
    translated = address.version == 4 and not address.is_private
    prefix = address.max_prefixlen if translated else _PREFIXES[address.version]
    return str(ipaddress.ip_network((address, prefix), strict=False))


def may_have(assignment: Assignment | None, digest: str, reported_generation: int, active_bundle: str) -> bool:
    """Say whether a device that is assigned this has the file by now, or is fetching it."""
    if assignment is None or not any(file.digest == digest for file in assignment.files):
        return False
    return reported_generation < assignment.generation or active_bundle == assignment.bundle


def least_asked_first(names: Iterable[str], asked: Mapping[str, int]) -> list[str]:
    """Return the caches in the order in which they are named: those that were to the fewest devices first."""
    return sorted(names, key=lambda name: (asked.get(name, 0), name))
