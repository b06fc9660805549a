"""From the broker to the database: windows are committed in batches, and only then acknowledged to their devices."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from milonga.v1 import telemetry_pb2
from sqlalchemy.exc import OperationalError

from milonga_hub import counts
from milonga_hub.errors import DatabaseUnreachable, FailedPrecondition, InvalidInput
from milonga_hub.fencing import LeadLost
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.telemetry.messages import TOPIC_ROOT, Unusable, WindowId, device_of, parse_window
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.packets import Published
from milonga_hub.telemetry.refusals import Refusals
from milonga_hub.telemetry.rules_intake import Allowance
from milonga_hub.telemetry.subscriber import Subscriber

_log = logging.getLogger(__name__)

# A window of telemetry has about 2 kB.
MAX_MESSAGE_BYTES = 1 << 20
_TELEMETRY_FILTER = f"{TOPIC_ROOT}/+/telemetry"
_STOP = object()


class TelemetryIntake:
    """Reads telemetry off a broker in threads of its own, so that the hub's event loop never waits for the database.

    A window counts as received when `store` has returned; before that nothing is acknowledged, so that a hub that dies
    loses nothing that a device has let go of.
    """

    def __init__(
        self,
        store: Callable[[Sequence[TelemetryWindow]], object],
        examine: Callable[[TelemetryWindow], TelemetryWindow] = lambda window: window,
        refusals: Refusals | None = None,
        *,
        batch_size: int = 500,
        batch_seconds: float = 0.2,
        waiting_limit: int = 20_000,
        is_shut_out: Callable[[str], bool] = lambda device: False,
    ) -> None:
        """`examine` returns the window that is to be stored, or raises InvalidInput for one that must not be.

        What a device sends that `is_shut_out` is dropped: a broker that somebody else runs may not know of it yet.
        """
        self._examine = examine
        self._is_shut_out = is_shut_out
        self.refusals = refusals or Refusals()
        self._allowances: dict[str, Allowance] = {}
        self._store = store
        self._batch_size = batch_size
        self._batch_seconds = batch_seconds
        self._waiting_limit = waiting_limit
        # Windows that came together, and how many all of them are.
        self._waiting: queue.Queue[Any] = queue.Queue()
        self._waiting_count = 0
        self._counting = threading.Lock()
        self._subscriber: Subscriber | None = None
        self._writer: threading.Thread | None = None
        counts.queues["telemetry"] = lambda: self._waiting_count

    async def start(self, endpoint: BrokerEndpoint, timeout_seconds: float = 10.0) -> None:
        """Connect and subscribe; on return no message is missed. Reconnects by itself from then on."""
        subscriber = Subscriber(endpoint, "intake", _TELEMETRY_FILTER, self._hear)
        self._subscriber = subscriber
        subscriber.start()
        self._writer = threading.Thread(target=self._write, args=[subscriber], name="telemetry-writer", daemon=True)
        self._writer.start()
        if not await asyncio.to_thread(subscriber.wait, timeout_seconds):
            await self.stop()
            raise FailedPrecondition(
                f"the MQTT broker at {endpoint.host}:{endpoint.port} did not answer within {timeout_seconds:.0f} s"
                f"{subscriber.trouble and f' ({subscriber.trouble})'}; see that it runs and knows the hub's user"
            )

    async def stop(self) -> None:
        """Commit and acknowledge what has come in, then disconnect."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is None:
            return
        subscriber.unsubscribe()
        self._waiting.put(_STOP)
        if self._writer is not None:
            self._writer.join()
        subscriber.stop()

    # Called in the subscriber's thread.

    def _hear(self, messages: Sequence[Published]) -> None:
        windows: list[TelemetryWindow] = []
        refused: list[WindowId] = []
        for message in messages:
            # Whatever is wrong with one message, the next ones are read.
            window, unwanted = self._read(message)
            if window is not None:
                windows.append(window)
            elif unwanted is not None:
                refused.append(unwanted)
        if refused and self._subscriber is not None:
            # Their devices may let go of them: they would be refused again.
            self._acknowledge(self._subscriber, refused)
        for start in range(0, len(windows), self._batch_size):
            self._queue(windows[start : start + self._batch_size])

    def _read(self, message: Published) -> tuple[TelemetryWindow | None, WindowId | None]:
        """Return a message's window, or in its place what names one that will never be stored, where that can be told."""
        device = device_of(message.topic)
        if self._is_shut_out(device):
            self._refuse(device, "telemetry_shut_out", "it is shut out")
            return None, None
        now = time.monotonic()
        allowance = self._allowances.get(device)
        if allowance is None:
            allowance = self._allowances[device] = Allowance.full(now)
        if not allowance.take(now):
            # Not acknowledged: whoever is honest sends it again.
            self._refuse(device, "telemetry_flood", "it sends more telemetry than a device can make")
            return None, None
        try:
            window = parse_window(message.topic, message.payload)
        except Exception as error:
            self._refuse(device, "telemetry", f"a message could not be read: {error}")
            return None, error.window if isinstance(error, Unusable) else None
        try:
            return self._examine(window), None
        except InvalidInput as error:
            self._refuse(device, "telemetry_implausible", f"telemetry that cannot be true: {error}")
            return None, WindowId(device, window.boot_id, window.sequence)

    def _queue(self, windows: list[TelemetryWindow]) -> None:
        with self._counting:
            fits = self._waiting_count + len(windows) <= self._waiting_limit
            self._waiting_count += len(windows) if fits else 0
        if fits:
            self._waiting.put(windows)
        else:
            _log.warning("too many windows wait for the database; devices will send %d of them again", len(windows))

    def _refuse(self, device: str, kind: str, reason: str) -> None:
        if self.refusals.note(device, kind, reason):
            _log.warning("refused of %s: %s", device, reason)

    # Called in the writer's thread.

    def _write(self, subscriber: Subscriber) -> None:
        while True:
            batch, last = self._next_batch()
            if batch:
                self._acknowledge(subscriber, self._stored(batch))
                with self._counting:
                    self._waiting_count -= len(batch)
            if last:
                return

    def _next_batch(self) -> tuple[list[TelemetryWindow], bool]:
        first = self._waiting.get()
        if first is _STOP:
            return [], True
        batch = list(first)
        deadline = time.monotonic() + self._batch_seconds
        while len(batch) < self._batch_size:
            try:
                more = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if more is _STOP:
                return batch, True
            batch += more
        return batch, False

    def _stored(self, batch: list[TelemetryWindow]) -> list[TelemetryWindow]:
        """Return those of the batch that are safe. One that the database cannot take does not hold up the others."""
        try:
            self._store(batch)
        except Exception as error:
            if isinstance(error, OperationalError | DatabaseUnreachable | LeadLost):
                _log.error("%d windows were not stored (%s); their devices will send them again", len(batch), error)
                return []
            if len(batch) == 1:
                _log.exception("a window of %s was not stored; it will be sent again", batch[0].device)
                return []
            half = len(batch) // 2
            return self._stored(batch[:half]) + self._stored(batch[half:])
        return batch

    @staticmethod
    def _acknowledge(subscriber: Subscriber, windows: Sequence[TelemetryWindow | WindowId]) -> None:
        sequences: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for window in windows:
            sequences[window.device, window.boot_id].append(window.sequence)
        acknowledgements = []
        for (device, boot_id), numbers in sequences.items():
            ack = telemetry_pb2.TelemetryAck(boot_id=boot_id, sequences=numbers)
            acknowledgements.append((f"{TOPIC_ROOT}/{device}/ack", ack.SerializeToString()))
        subscriber.publish(acknowledgements)
