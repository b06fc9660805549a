"""Questions to devices whose streams are at other hubs: carried there, and the answers back, as agents and hubs write them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlmodel import col, delete, select

from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import Device, DeviceState
from milonga_hub.devices.streams import Outgoing
from milonga_hub.hubs.models import HubMessage
from milonga_hub.hubs.news import announce_call

_log = logging.getLogger(__name__)

# What a hub asks of another, and tells it; the word by which a notice says that there is something to read.
ASK, ANSWER, LOST = "ask", "answer", "lost"
CALL = "message"
# Whoever it was for has ended since.
_KEPT = timedelta(hours=1)


@dataclass(frozen=True)
class _Asked:
    asker: str
    digests: frozenset[str]


class Relay:
    """The streams of other hubs, as this one reaches them. Safe to use from any thread."""

    def __init__(
        self,
        database: Database,
        hub: str,
        alive: Callable[[], Collection[str]],
        encoded: Callable[[Outgoing], tuple[bytes, Collection[str]]],
    ) -> None:
        """`encoded` returns a message as a device gets it, and the digests of the files that it may fetch for it."""
        self._database = database
        self._hub = hub
        self._alive = alive
        self._encoded = encoded
        # By device and question, of devices here.
        self._asked: dict[tuple[str, str], _Asked] = {}
        # By device elsewhere, the hub that was asked last.
        self._reached: dict[str, str] = {}
        # What comes: to a device here, from a device elsewhere, and that the device elsewhere is gone.
        self.on_ask: Callable[[str, str, bytes], bool] = lambda device, slot, body: False
        self.on_answer: Callable[[str, bytes], None] = lambda device, body: None
        self.on_lost: Callable[[str], None] = lambda device: None

    # Devices elsewhere

    def connected(self) -> dict[str, tuple[str, bool]]:
        """Return by device the other hub that has its stream, and whether its agent times kernels."""
        others = [*({*self._alive()} - {self._hub})]
        if not others:
            return {}
        columns = (Device.name, Device.hub, Device.knows_tuning)
        there = select(*columns).where(Device.state == DeviceState.ONLINE, col(Device.hub).in_(others))
        with self._database.session() as session:
            return {name: (hub, knows) for name, hub, knows in session.exec(there)}

    def find(self, device: str) -> tuple[str, bool] | None:
        """As `connected`, of one device."""
        others = {*self._alive()} - {self._hub}
        if not others:
            return None
        with self._database.session() as session:
            found = session.get(Device, device)
        if found is None or found.state is not DeviceState.ONLINE or found.hub not in others:
            return None
        return found.hub, found.knows_tuning

    def ask(self, hub: str, device: str, slot: str, message: Outgoing) -> None:
        """Leave a message for a device whose stream is at the hub."""
        body, digests = self._encoded(message)
        self._reached[device] = hub
        self._say(hub, device, ASK, slot, body, " ".join(digests))

    def moved(self, devices: Sequence[Device]) -> None:
        """Give back what devices were asked at hubs that do not have them any more."""
        for device in devices:
            hub = self._reached.get(device.name)
            if hub is not None and (device.hub != hub or device.state is not DeviceState.ONLINE):
                del self._reached[device.name]
                self.on_lost(device.name)

    # Devices here

    def digests_for(self, device: str) -> set[str]:
        """Return the digests of all files that the device needs for what others ask of it now."""
        return {digest for (name, _), asked in [*self._asked.items()] if name == device for digest in asked.digests}

    def answered(self, device: str, slot: str, body: bytes) -> bool:
        """Carry an answer to the hub that asked; return whether another did."""
        asked = self._asked.pop((device, slot), None)
        if asked is not None:
            self._say(asked.asker, device, ANSWER, slot, body)
        return asked is not None

    def lost(self, device: str) -> None:
        """Tell those who asked the device here that its stream has ended."""
        for key in [key for key in [*self._asked] if key[0] == device]:
            asked = self._asked.pop(key, None)
            if asked is not None:
                self._say(asked.asker, device, LOST, key[1])

    # What comes

    def read(self, number: str) -> None:
        """Take a message that is for this hub."""
        with self._database.session() as session:
            message = session.get(HubMessage, int(number))
            if message is None or message.hub != self._hub:
                return
            session.delete(message)
        if message.kind == ANSWER:
            self.on_answer(message.device, message.body)
        elif message.kind == LOST:
            self.on_lost(message.device)
        else:
            self._asked[message.device, message.key] = _Asked(message.sender, frozenset(message.digests.split()))
            if not self.on_ask(message.device, message.key, message.body):
                self.lost(message.device)

    def catch_up(self) -> None:
        """Take all messages that are for this hub, the oldest first: of those that came while it did not listen nobody told it."""
        left = select(HubMessage.id).where(HubMessage.hub == self._hub).order_by(col(HubMessage.id))
        with self._database.session() as session:
            numbers = session.exec(left).all()
        for number in numbers:
            self.read(str(number))

    def forget_old(self) -> None:
        """Delete what nobody read in time."""
        with self._database.session() as session:
            session.exec(delete(HubMessage).where(col(HubMessage.sent_at) < utc_now() - _KEPT))

    def _say(self, hub: str, device: str, kind: str, key: str, body: bytes = b"", digests: str = "") -> None:
        message = HubMessage(hub=hub, sender=self._hub, device=device, kind=kind, key=key, body=body, digests=digests)
        with self._database.session() as session:
            session.add(message)
            session.flush()
            announce_call(session, hub, f"{CALL} {message.id}")
