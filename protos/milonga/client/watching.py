"""What a watch that breaks asks for again, and what of the answer its user has seen: the same for both kinds of client."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta, timezone
from typing import Any

import grpc
from google.protobuf.message import Message

from milonga.client.retries import Retries

# A hub that is stopped cancels its streams.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
# A stream that was open for so long did not fail at once: the hub was there.
_LASTED_SECONDS = 60.0
# Devices send windows late when they were off line; those that come so late while a stream is broken are still found.
_LATE = timedelta(hours=1)
_REMEMBERED = 10_000


class Watching:
    """One watch, over all of its streams.

    Things with state (`name` or `id`) are sent whole on every stream: one that is as it was last is no news. Windows of
    telemetry have (boot_id, sequence): a new stream is asked for those since an hour before the newest.
    """

    def __init__(self, request: Message, retries: Retries, clock: Callable[[], float] = time.monotonic) -> None:
        self.request: Any = request
        self._retries = retries
        self._pauses = retries.pauses()
        self._clock = clock
        self._seen: OrderedDict[object, int] = OrderedDict()
        self._newest: Any = None
        self._opened_at = clock()
        # When nobody answered first, None while somebody does.
        self._failing_since: float | None = None

    def open(self) -> Any:
        """Return the request for the next stream."""
        self._opened_at = self._clock()
        return self.request

    def is_new(self, item: Any) -> bool:
        """Whether the watcher has not seen the item as it is."""
        self._answered()
        has_history = "sequence" in item.DESCRIPTOR.fields_by_name
        if has_history:
            self._remember_time(item)
            key: object = (item.boot_id, item.sequence)
        else:
            key = item.name if "name" in item.DESCRIPTOR.fields_by_name else item.id
        # Not by ==: a field that is not-a-number is unlike itself.
        content = 0 if has_history else hash(item.SerializeToString(deterministic=True))
        if self._seen.get(key) == content:
            return False
        self._seen[key] = content
        self._seen.move_to_end(key)
        if has_history and len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def pause(self, code: grpc.StatusCode) -> float | None:
        """Return how many seconds to wait before the next stream, None where it is over."""
        if code not in _BROKEN:
            return None
        now = self._clock()
        if now - self._opened_at > _LASTED_SECONDS:
            self._answered()
        if self._failing_since is None:
            self._failing_since = now
        if self._retries.attempts == 1 or now - self._failing_since >= self._retries.watch_seconds:
            return None
        return next(self._pauses)

    def _answered(self) -> None:
        if self._failing_since is not None:
            self._failing_since = None
            self._pauses = self._retries.pauses()

    def _remember_time(self, item: Any) -> None:
        started_at = item.started_at.ToDatetime(tzinfo=timezone.utc)
        if self._newest is None or started_at > self._newest:
            self._newest = started_at
            again = type(self.request)()
            again.CopyFrom(self.request)
            again.since.FromDatetime(started_at - _LATE)
            self.request = again
