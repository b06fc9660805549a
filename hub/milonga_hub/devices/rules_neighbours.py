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


def check(cache: Cache) -> None:
    """Raise InvalidInput for what no agent says: other devices would be told it."""
    if len(cache.addresses) > _MOST_ADDRESSES or not all(_is_address(each) for each in cache.addresses):
        raise InvalidInput(f"Cache.addresses must be up to {_MOST_ADDRESSES} of the form HOST:PORT")
    if cache.addresses and len(cache.certificate_sha256) != _DIGEST_BYTES:
        raise InvalidInput(f"Cache.certificate_sha256 must have {_DIGEST_BYTES} bytes")


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
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
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
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
