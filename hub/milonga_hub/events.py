"""News of one hub, and of the others on its database: services publish what changed, streams and pages listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """`topic` is a resource name such as "devices/pi-3" or "runs/digits/1"; `payload` the thing as it is now."""

    topic: str
    payload: Any


class EventBus:
    """Delivers events to listeners of a topic prefix.

    A slow listener gets the newest event of each topic and misses those in between: events carry state, not history.
    """

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Takes what is published here to the other hubs.
        self.pass_on: Callable[[Sequence[Event]], None] = lambda events: None

    def publish(self, topic: str, payload: Any) -> None:
        """Tell all listeners. May be called from any thread once somebody has listened on the loop."""
        self.publish_all([Event(topic, payload)])

    def publish_all(self, events: Sequence[Event]) -> None:
        """Tell all listeners of several things: from another thread the loop is woken once for all of them."""
        if events:
            self.pass_on(events)
        self.hear(events)

    def hear(self, events: Sequence[Event]) -> None:
        """As publish_all, for what another hub has published."""
        if self._loop is None or not events:
            return
        try:
            on_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            on_loop = False
        if on_loop:
            self._deliver(events)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, events)

    def is_heard(self, topic: str) -> bool:
        """Return whether anybody listens to the topic. Safe to call from any thread."""
        return any(topic.startswith(listener.prefixes) for listener in [*self._listeners])

    def listen(self, *prefixes: str) -> Listening:
        """Return an async iterator of events; it hears everything published after this call. Close it when done."""
        self._loop = asyncio.get_running_loop()
        listener = _Listener(prefixes)
        self._listeners.add(listener)
        return Listening(self, listener)

    def _deliver(self, events: Sequence[Event]) -> None:
        for listener in self._listeners:
            for event in events:
                if event.topic.startswith(listener.prefixes):
                    listener.pending.pop(event.topic, None)
                    listener.pending[event.topic] = event
                    listener.wake.set()

    def _forget(self, listener: _Listener) -> None:
        self._listeners.discard(listener)


class _Listener:
    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self.prefixes = prefixes
        self.pending: dict[str, Event] = {}
        self.wake = asyncio.Event()


class Listening:
    """An open ear: `with bus.listen("devices/") as events: async for event in events: ...`."""

    def __init__(self, bus: EventBus, listener: _Listener) -> None:
        self._bus = bus
        self._listener = listener

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._bus._forget(self._listener)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        while True:
            yield await self.next()

    async def next(self, timeout_seconds: float | None = None) -> Event:
        """Return the next event. Raises TimeoutError when none came in time."""
        async with asyncio.timeout(timeout_seconds):
            while not self._listener.pending:
                self._listener.wake.clear()
                await self._listener.wake.wait()
        topic = next(iter(self._listener.pending))
        return self._listener.pending.pop(topic)

    def waiting(self) -> list[Event]:
        """Take all that has come meanwhile: news of a whole fleet is looked at together."""
        taken, self._listener.pending = [*self._listener.pending.values()], {}
        return taken
