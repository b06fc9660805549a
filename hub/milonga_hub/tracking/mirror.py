"""A thread that tells another service what changed, so that the hub never waits for it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from milonga_hub.tracking.errors import Away, Refused

_log = logging.getLogger(__name__)

# Names only, since what a name stands for is looked up when it is told; more than a server that is away for days leaves behind.
MOST_WAITING = 1000
# A run in training changes four times a second; told once a second it still looks live.
SECONDS_BETWEEN = 1.0
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
# A hub that stops lets one answer come, no more: the next start goes on.
_SECONDS_TO_END = 2.0


class Mirror:
    """Tells by name what has changed: a name that waits already waits once, and is told as the thing is by then.

    While the other side is away (Away), everything waits, with longer and longer pauses. What it refuses (Refused) is dropped, and so
    is the oldest where too many wait; what was dropped is told with the thing's next change, or the hub's next start.
    """

    def __init__(
        self, tell: Callable[[str], None], most_waiting: int = MOST_WAITING, seconds_between: float = SECONDS_BETWEEN
    ) -> None:
        self._tell = tell
        self._most_waiting = most_waiting
        self._seconds_between = seconds_between
        self._changed = threading.Condition()
        # When each is due, and when it was tried last, by time.monotonic().
        self._waiting: dict[str, float] = {}
        self._tried_at: dict[str, float] = {}
        self._ended = False
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def add(self, name: str) -> None:
        """Have this told soon. Safe to call from any thread, and never waits for the other side."""
        with self._changed:
            if name in self._waiting:
                return
            self._waiting[name] = self._tried_at.get(name, -math.inf) + self._seconds_between
            lost = next(iter(self._waiting)) if len(self._waiting) > self._most_waiting else None
            if lost is not None:
                del self._waiting[lost]
                self.dropped += 1
                _log.warning(
                    "%d wait to be told already: left out %s (%d so far)", self._most_waiting, lost, self.dropped
                )
            self._changed.notify()

    def start(self) -> None:
        # A daemon: a request that hangs does not keep the hub from ending.
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop after what is being told now; what waits is left for the next start."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_SECONDS_TO_END)

    def _run(self) -> None:
        wait_seconds = 0.0
        while (name := self._next()) is not None:
            try:
                self._tell(name)
                wait_seconds = 0.0
            except Away as error:
                # Behind the others: if this alone makes the server fail, they are not held up.
                self.add(name)
                wait_seconds = min(max(2 * wait_seconds, _FIRST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
                _log.warning("%s; trying again in %.0f s", error, wait_seconds)
                self._wait(wait_seconds)
            except Refused as error:
                self._drop(name, error)
            except Exception as error:
                # Whatever is wrong with this copy, the hub itself goes on.
                self._drop(name, error, trace=True)

    def _drop(self, name: str, error: Exception, trace: bool = False) -> None:
        self.dropped += 1
        _log.warning("left out %s (%d so far): %s", name, self.dropped, error, exc_info=trace)

    def _next(self) -> str | None:
        """Return what is due and has waited longest, as soon as there is something; None at the end."""
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                name = min(self._waiting, key=self._waiting.__getitem__, default=None)
                if name is not None and self._waiting[name] <= now:
                    del self._waiting[name]
                    recent = now - self._seconds_between
                    self._tried_at = {each: at for each, at in self._tried_at.items() if at > recent} | {name: now}
                    return name
                self._changed.wait(None if name is None else self._waiting[name] - now)
        return None

    def _wait(self, seconds: float) -> None:
        """Let time pass, unless the end comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, seconds)
