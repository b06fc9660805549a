"""When an MQTT client asks its broker whether it is still there, and when it takes it for gone."""

from __future__ import annotations


class Pulse:
    """Times are seconds of one clock that never goes back.

    A broker may owe no answer to what is sent, as to QoS 0, so that only a PING which nothing came after tells that it is gone.
    """

    def __init__(self, now: float, quiet_seconds: float) -> None:
        self._quiet_seconds = quiet_seconds
        self._heard_at = now
        self._asked_at: float | None = None

    def hears(self, now: float) -> None:
        """Something came, whatever it is."""
        self._heard_at, self._asked_at = now, None

    def asks(self, now: float, sent_at: float) -> bool:
        """Return whether to send a PING: in one direction there was nothing for a while. It counts as sent."""
        if self._asked_at is not None or now - min(sent_at, self._heard_at) < self._quiet_seconds:
            return False
        self._asked_at = now
        return True

    def is_gone(self, now: float) -> bool:
        """Return whether the broker was asked, and has not answered for as long."""
        return self._asked_at is not None and now - self._asked_at >= self._quiet_seconds
