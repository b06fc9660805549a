"""Stay connected to the hub: one stream, heartbeats on it, and a certificate that never ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from milonga.v1 import agent_pb2
from milonga.waiting import within

from milonga_agent.enrolment import Joining, enrol
from milonga_agent.errors import AgentError, HubUnreachable, Refused
from milonga_agent.hub import Hub
from milonga_agent.keys import make_request
from milonga_agent.outbox import Outbox
from milonga_agent.patience import backoff_seconds, refused_seconds
from milonga_agent.state import Identity, Store
from milonga_agent.telemetry import Sender

_log = logging.getLogger(__name__)
# A stream that lasted so long was a good one.
_STEADY_SECONDS = 30.0


@dataclass(frozen=True)
class Said:
    """What the two sides of the stream say. `opened` is called when the hub has been greeted."""

    hello: Callable[[], Awaitable[agent_pb2.Hello]]
    status: Callable[[], agent_pb2.AgentStatus]
    opened: Callable[[], None]
    heard: Callable[[agent_pb2.ConnectResponse], None]


class Connection:
    """The stream to the hub. `await connection.run(identity)` works until it is cancelled."""

    def __init__(self, store: Store, joining: Joining, outbox: Outbox, sender: Sender, said: Said) -> None:
        self._store = store
        self._joining = joining
        self._outbox = outbox
        self._sender = sender
        self._said = said
        self._random = random.Random()
        self._heartbeat_seconds = 10.0
        self._status_changed = asyncio.Event()
        # Asks for the next certificate in time.
        self._renewal: asyncio.Future[None] | None = None

    def tell_status(self) -> None:
        """Tell the hub soon how the agent stands."""
        self._status_changed.set()

    def use(self, settings: agent_pb2.Settings) -> None:
        """Do as the hub wants of every agent."""
        self._heartbeat_seconds = settings.heartbeat_seconds
        self._renew_after(settings.renew_after_seconds)
        # The heartbeat under way was for the old interval.
        self._status_changed.set()

    def keep(self, certificate: agent_pb2.Certificate) -> None:
        """Put a new certificate in the place of the last one."""
        self._store.keep_certificate(certificate.certificate)
        identity = self._store.identity()
        assert identity is not None
        self._sender.use(identity)
        self._renew_after(certificate.renew_after_seconds)
        _log.info("the hub renewed this device's certificate")

    async def run(self, identity: Identity) -> None:
        failures = refusals = short = 0

        def handle(message: agent_pb2.ConnectResponse) -> None:
            nonlocal failures, refusals
            failures = refusals = 0
            self._said.heard(message)

        while True:
            hub = Hub(identity, self._store.credentials())
            heart, began = asyncio.ensure_future(self._beat()), time.monotonic()
            try:
                outgoing = self._outbox.open(await self._said.hello())
                self._said.opened()
                await hub.connect(outgoing, handle)
            except AgentError as error:
                # Not the error itself: its frames would hold the call, and that the connection, which tries on for ever.
                problem, refused = str(error), isinstance(error, Refused)
            finally:
                self._outbox.close()
                heart.cancel()
                self._renew_after(0)
                await hub.close()
            if refused:
                refusals += 1
                if refusals > 1 or not self._joining.join_token:
                    await self._wait_refused(problem, refusals)
            else:
                failures += 1
                # What ends again and again as soon as it has begun is no better than what never begins: a copy of this device, perhaps.
                short = short + 1 if time.monotonic() - began < _STEADY_SECONDS else 0
                seconds = backoff_seconds(max(failures, short), self._random)
                _log.warning("%s; trying again in %.1f s", problem, seconds)
                await asyncio.sleep(seconds)
            if failures > 1 or (refusals and self._joining.join_token):
                identity = await self._certified_again() or identity

    async def _certified_again(self) -> Identity | None:
        """Ask for a certificate where machines join: this device's may have ended, or the hub's ports may have changed."""
        try:
            identity = await enrol(self._joining, self._store, again=True)
        except HubUnreachable:
            return None  # It is down; that was said.
        except AgentError as error:
            _log.warning("no new certificate: %s", error)
            return None
        self._sender.use(identity)
        return identity

    async def _wait_refused(self, problem: str, count: int) -> None:
        # In a thread: it waits for the client's own, which may be trying to connect.
        await asyncio.get_running_loop().run_in_executor(None, self._sender.stop)
        await wait_refused(problem, count, self._random)
        self._sender.start()

    async def _renew(self, seconds: float) -> None:
        """Ask for a new certificate on the open stream, when the hub said."""
        await asyncio.sleep(seconds)
        request = agent_pb2.CertificateRequest(certificate_request=await make_request(self._store.folder))
        self._outbox.send(certificate_request=request)

    def _renew_after(self, seconds: float) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.ensure_future(self._renew(seconds)) if seconds else None

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(self._status_changed.wait(), self._heartbeat_seconds)
            self._status_changed.clear()
            beat = agent_pb2.Heartbeat(status=self._said.status())
            beat.sent_at.GetCurrentTime()
            self._outbox.send(heartbeat=beat)


async def wait_refused(problem: str, count: int, source: random.Random) -> None:
    """Wait after the hub has refused this device for the n-th time in a row, and say so."""
    seconds = refused_seconds(count, source)
    _log.error("%s; what is installed is served on, and the hub is asked again in %.0f min", problem, seconds / 60)
    await asyncio.sleep(seconds)
