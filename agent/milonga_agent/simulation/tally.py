"""What became of the devices so far, counted for people and for programs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Different ones; a fleet that fails fails thousands of times alike.
_MOST_ERRORS = 20
_LENGTH = 200
# What goes down again, and is nothing at the end.
_NOW = ("online", "assigned", "telemetry_online")


@dataclass
class Tally:
    """Counts of one simulation."""

    devices: int
    enrolled: int = 0
    online: int = 0
    most_online: int = 0
    # On their way to what they were told to serve.
    assigned: int = 0
    succeeded: int = 0
    failed: int = 0
    measured: int = 0
    # Upgrades of the agent, and those that did not end well.
    upgraded: int = 0
    not_upgraded: int = 0
    reconnects: int = 0
    # Over the stream of gRPC.
    sent: int = 0
    received: int = 0
    downloaded_bytes: int = 0
    telemetry_online: int = 0
    windows_sent: int = 0
    windows_acknowledged: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    _last: tuple[float, int] = (0.0, 0)

    def came_online(self) -> None:
        self.online += 1
        self.most_online = max(self.most_online, self.online)

    def error(self, message: str) -> None:
        known = message[:_LENGTH]
        if known not in self.errors and len(self.errors) >= _MOST_ERRORS:
            known = "others"
        self.errors[known] += 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def messages(self) -> int:
        return self.sent + self.received + self.windows_sent + self.windows_acknowledged

    def _counts(self) -> dict[str, Any]:
        names = [name for name in vars(self) if name not in ("errors", "began") and not name.startswith("_")]
        return {name: getattr(self, name) for name in names}

    def progress(self) -> dict[str, Any]:
        """Return the counts, with messages a second since this was last asked."""
        now = self.seconds
        since, before = self._last
        self._last = (now, self.messages)
        rate = (self.messages - before) / (now - since) if now > since else 0.0
        return {
            "seconds": round(now, 1),
            **self._counts(),
            "messages_per_second": round(rate, 1),
            "errors": sum(self.errors.values()),
        }

    def summary(self) -> dict[str, Any]:
        """Return all counts, and what went wrong how often."""
        return {
            "seconds": round(self.seconds, 1),
            **{name: value for name, value in self._counts().items() if name not in _NOW},
            "messages_per_second": round(self.messages / max(self.seconds, 1e-9), 1),
            "errors": dict(self.errors.most_common()),
        }
