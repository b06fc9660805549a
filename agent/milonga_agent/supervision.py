"""Tell systemd that the agent is up and alive (sd_notify(3)): a datagram to a socket, no library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path

from milonga.release import read_release

from milonga_agent import __version__

_DEFAULT_SECONDS = 3600.0
# Set by the script that starts the agent (docs/install.md): the file that counts starts of a version that is new here ...
_TRIAL = "MILONGA_AGENT_TRIAL"
# ... the place of a version that did not start, where the one before was started in its stead ...
_SWITCHED_BACK = "MILONGA_AGENT_SWITCHED_BACK"
# ... where releases that come from the hub belong, which of them runs, and that script itself.
_RELEASES = "MILONGA_AGENT_RELEASES"
_RELEASE = "MILONGA_AGENT_RELEASE"
_START = "MILONGA_AGENT_START"
RELEASE_MANIFEST = "manifest.json"


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


def confirm_start() -> None:
    """Say that this version works: its starts are counted no longer."""
    path = os.environ.pop(_TRIAL, "")
    if path:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()


def releases_folder() -> Path | None:
    """Return where releases from the hub belong; None where the script that would start them is not there."""
    path = os.environ.get(_RELEASES, "")
    return Path(path) if path and os.environ.get(_START) else None


def release_in_use() -> str:
    """Return the slot of the release that runs, "" for what was installed."""
    return os.environ.get(_RELEASE, "")


def running_version() -> str:
    """Return the version of the agent, and the number of the release from the hub that runs, where one does: "0.1.0+1795762755"."""
    folder, slot = releases_folder(), release_in_use()
    if folder is not None and slot:
        with contextlib.suppress(OSError, ValueError):
            return f"{__version__}+{read_release((folder / slot / RELEASE_MANIFEST).read_bytes()).number}"
    return __version__


def start_command() -> list[str]:
    """Return what starts the agent anew: the script, where one started it, for it chooses the release."""
    start = os.environ.get(_START, "")
    return [start] if start and os.access(start, os.X_OK) else [sys.executable, "-m", "milonga_agent"]


def switched_back() -> str:
    """Return what people should know of an upgrade that failed; empty for nothing."""
    slot = os.environ.get(_SWITCHED_BACK, "")
    return f"the agent in {slot} did not start, so the one before it runs; upgrade or install again" if slot else ""
