"""Tell systemd that the agent is up and alive (sd_notify(3)): a datagram to a socket, no library."""

from __future__ import annotations

import asyncio
import os
import socket

_DEFAULT_SECONDS = 3600.0


def notify(state: str) -> None:
    """Send a state such as READY=1; without a supervisor that listens, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # A leading @ stands for the zero byte of an abstract address.
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), target)
        except OSError:
            # The supervisor is gone: nothing to keep alive for, and no reason to stop serving.
            return


def interval_seconds() -> float:
    """Return how often to say that the agent is alive: half of what the supervisor waits for (sd_watchdog_enabled(3))."""
    return float(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 or _DEFAULT_SECONDS


async def keep_alive() -> None:
    """Say READY once, then WATCHDOG from this event loop for as long as it turns; a stuck agent falls silent."""
    notify("READY=1")
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_seconds())
