"""Devices that serve their neighbours: who they are, where, and with which tickets others may come to them.

All of it is told again after every Hello, so that it is kept in memory alone.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from milonga import tickets

from milonga_hub.db import Database
from milonga_hub.devices import rules_neighbours as rules
from milonga_hub.devices.models import Assignment, Device
from milonga_hub.devices.rules_neighbours import Cache
from milonga_hub.devices.streams import DeviceStream, Streams
from milonga_hub.devices.values import CacheKey, Neighbour
from milonga_hub.errors import InvalidInput

_log = logging.getLogger(__name__)

# Long enough to begin, and to begin again where a line broke.
_TICKET_SECONDS = 600
# One that is away costs a device two seconds.
_MOST_NAMED = 2


@dataclass
class _Known:
    """A cache, as long as this stream of it is open."""

    device: str
    stream: DeviceStream
    host: str
    told: Cache
    network: str
    key: bytes = field(default_factory=tickets.new_key)
    # Who has a ticket for it.
    guests: set[str] = field(default_factory=set)


class Caches:
    """The caches of the fleet. Safe to use from any thread."""

    def __init__(self, database: Database, streams: Streams, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._streams = streams
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._by_network: defaultdict[str, set[str]] = defaultdict(set)
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def told(self, stream: DeviceStream, labels: Mapping[str, str], host: str, cache: Cache) -> None:
        """Know a device for a cache from now on, or not any more. One that says what cannot be is none, and no worse off."""
        try:
            rules.check(cache, host)
        except InvalidInput as error:
            _log.warning("%s is no cache for its neighbours: %s", stream.device, error)
            cache = Cache()
        with self._lock:
            before = self._forget(stream.device)
            if not cache.addresses:
                return
            known = _Known(stream.device, stream, host, cache, rules.network_of(labels, host))
            self._remember(known)
        if before is None or before.told != cache:
            _log.info("%s serves its neighbours at %s", stream.device, ", ".join(cache.addresses))
        self._send_key(known)

    def relabelled(self, device: str, labels: Mapping[str, str]) -> None:
        """Find the cache's network again after an operator changed its labels."""
        with self._lock:
            known = self._forget(device)
            if known is not None:
                known.network = rules.network_of(labels, known.host)
                self._remember(known)

    def shut_out(self, device: str) -> None:
        """Let the device's tickets be good no more: whoever it has one for gets another key, and ends its connections."""
        with self._lock:
            self._forget(device)
            asked = [known for known in self._known.values() if device in known.guests]
            for known in asked:
                known.key = tickets.new_key()
                known.guests.clear()
        for known in asked:
            self._send_key(known)

    def addresses_of(self, device: str) -> tuple[str, ...]:
        """Return where the device serves its neighbours now; nowhere where it does not, or is off line."""
        with self._lock:
            known = self._known.get(device)
        return known.told.addresses if known and self._streams.get(device) is known.stream else ()

    def near(self, device: Device, host: str, digest: str) -> list[Neighbour]:
        """Return which caches the device may fetch the blob from, with a ticket for each. Whether it may have it is for others to say."""
        with self._lock:
            names = self._by_network.get(rules.network_of(device.labels, host), set()) - {device.name}
            near = [name for name in names if self._streams.get(name) is self._known[name].stream]
            near = rules.least_asked_first(near, self._asked)
        holding = [*islice((name for name in near if self._may_have(name, digest)), _MOST_NAMED)]
        ends_at = int(self._clock().timestamp()) + _TICKET_SECONDS
        with self._lock:
            # Some may have gone meanwhile.
            found = [self._known[name] for name in holding if name in self._known]
            return [self._neighbour(known, device.name, digest, ends_at) for known in found]

    def _neighbour(self, known: _Known, device: str, digest: str, ends_at: int) -> Neighbour:
        known.guests.add(device)
        self._asked[known.device] += 1
        ticket = tickets.issue(known.key, device, digest, ends_at)
        return Neighbour(known.device, known.told.addresses, known.told.certificate_sha256, ticket)

    def _may_have(self, name: str, digest: str) -> bool:
        with self._database.session() as session:
            device, assignment = session.get(Device, name), session.get(Assignment, name)
        return device is not None and rules.may_have(
            assignment, digest, device.reported_generation, device.active_bundle
        )

    def _send_key(self, known: _Known) -> None:
        known.stream.send("cache_key", CacheKey(known.key, self._clock()))

    def _remember(self, known: _Known) -> None:
        self._known[known.device] = known
        self._by_network[known.network].add(known.device)

    def _forget(self, device: str) -> _Known | None:
        known = self._known.pop(device, None)
        if known is not None:
            self._by_network[known.network].discard(device)
            if not self._by_network[known.network]:
                del self._by_network[known.network]
        return known
