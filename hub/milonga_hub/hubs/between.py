"""What goes from hub to hub: news of what changed, and questions to devices of others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from milonga.v1 import agent_pb2
from sqlmodel import Session

from milonga_hub.builds.models import Build
from milonga_hub.db import Database
from milonga_hub.devices import rpc as agents
from milonga_hub.devices.service import DeviceService
from milonga_hub.events import EventBus
from milonga_hub.hubs.news import News, announce_rows
from milonga_hub.hubs.relay import CALL, Relay
from milonga_hub.hubs.service import Membership
from milonga_hub.runs.models import Run, RunState

_log = logging.getLogger(__name__)

_DEVICES, _RUNS, _BUILDS = "device", "run", "build"
_LOOK = "look"
_TIDY_SECONDS = 600.0


class Queue(Protocol):
    """Runs, or builds that are made outside of them: the hub that leads works on them, any may be told of them."""

    on_queued: Callable[[], None]
    on_cancelled: Callable[[str], None]


class Between:
    """This hub's connection to the others."""

    def __init__(self, database: Database, events: EventBus, hubs: Membership) -> None:
        self._hubs = hubs
        self._news = News(database, events, hubs.id, lambda: len(hubs.alive()) > 1)
        self._relay = Relay(database, hubs.id, hubs.alive, agents.encoded)
        self._loop: asyncio.AbstractEventLoop | None = None

    def announce(self, session: Session, devices: Sequence[str]) -> None:
        """Tell the others of these devices if the session commits: they send on what they find there."""
        announce_rows(session, self._hubs.id, [(f"devices/{device}", _DEVICES, device) for device in devices])

    def connect(self, devices: DeviceService, runs: Queue, builds: Queue) -> None:
        """Let services hear what others did, and reach devices through them."""
        devices.reach(self._relay)

        def changed(table: str, rows: Sequence[Any]) -> None:
            if table == _DEVICES:
                self._relay.moved(rows)
                devices.changed_elsewhere(rows)
            for row in rows:
                if isinstance(row, Run):
                    _tell(runs, row.name, waits=row.state is RunState.QUEUED, ended=row.state is RunState.CANCELLED)
                elif isinstance(row, Build):
                    _tell(builds, row.name, waits=row.in_progress, ended=not row.in_progress)

        def gone(table: str, keys: Sequence[Any]) -> None:
            if table == _DEVICES:
                devices.deleted_elsewhere(keys)

        def answered(device: str, body: bytes) -> None:
            agents.take_answer(devices, device, agent_pb2.ConnectRequest.FromString(body))

        def missed() -> None:
            devices.connections.catch_up()
            self._relay.catch_up()
            runs.on_queued()
            builds.on_queued()
            self._hubs.look()

        self._news.wanted = frozenset({_DEVICES, _RUNS, _BUILDS})
        self._news.on_rows, self._news.on_gone, self._news.on_gap = changed, gone, missed
        self._news.on_calls = {CALL: self._relay.read, _LOOK: lambda rest: self._hubs.look()}
        self._relay.on_ask = devices.ask
        self._relay.on_answer = lambda device, body: self._on_loop(lambda: answered(device, body))
        self._relay.on_lost = lambda device: self._on_loop(lambda: devices.connections.lost_elsewhere(device))
        self._hubs.tell_others = lambda: self._news.call("", _LOOK)

    def start(self) -> None:
        """Hear and tell from now on."""
        self._loop = asyncio.get_running_loop()
        self._news.start()
        self._news.call("", _LOOK)

    def stop(self) -> None:
        self._news.stop()

    async def tidy(self) -> None:
        """Forget what nobody read, again and again, until cancelled."""
        while True:
            await asyncio.to_thread(self._relay.forget_old)
            await asyncio.sleep(_TIDY_SECONDS)

    def _on_loop(self, work: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)


def _tell(queue: Queue, name: str, *, waits: bool, ended: bool) -> None:
    if waits:
        queue.on_queued()
    elif ended:
        queue.on_cancelled(name)
