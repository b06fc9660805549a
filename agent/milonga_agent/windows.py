"""Take a window of what the model did every so often, with what the agent itself used, and hand it to telemetry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import psutil

from milonga_agent.errors import BadBundle
from milonga_agent.plan import Wish
from milonga_agent.sensors import temperature_celsius
from milonga_agent.serving import Serving
from milonga_agent.state import Identity
from milonga_agent.telemetry import Boot, Sender, window_of

_log = logging.getLogger(__name__)


class Windows:
    """Takes the windows of one device. `await windows.run()` works until it is cancelled."""

    def __init__(self, identity: Identity, serving: Serving, boot: Boot, sender: Sender) -> None:
        self._device = identity.device
        self._serving = serving
        self._boot = boot
        self._sender = sender
        self._usage = Usage()
        self._seconds = 30.0
        self._changed = asyncio.Event()

    def every(self, seconds: float) -> None:
        """Take them this often from now on."""
        self._seconds = seconds
        self._changed.set()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._seconds)
            self._changed.clear()
            try:
                taken = await self._serving.take()
            except BadBundle as error:
                _log.error("%s; starting it again", error)
                await self._serving.drop()
                continue
            if taken is not None:
                self.put(*taken)
            self._sender.flush()

    def put(self, wish: Wish, counted: dict[str, Any]) -> None:
        """Hand over what a worker counted."""
        cpu, memory = self._usage.take()
        about: dict[str, Any] = {
            "device": self._device,
            "boot_id": self._boot.id,
            "sequence": self._boot.next_sequence(),
            "bundle": wish.bundle,
            "model_version": wish.model_version,
            "project": wish.project,
            "cpu_percent": cpu,
            "memory_bytes": memory,
            "temperature_celsius": temperature_celsius() or float("nan"),
        }
        self._sender.put(self._boot.order, window_of(counted, about))


class Usage:
    """CPU and memory of the daemon and its workers."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._since: tuple[float, dict[int, float]] | None = None

    def take(self) -> tuple[float, int]:
        """Return CPU in percent of one core since the last time, and memory in bytes."""
        processes = [self._process, *self._process.children()]
        memory = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                memory += process.memory_info().rss
        return self._cpu_percent(processes), memory

    def _cpu_percent(self, processes: list[psutil.Process]) -> float:
        now = time.monotonic()
        used = {}
        for process in processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
        before, self._since = self._since or (now, used), (now, used)
        seconds = now - before[0]
        spent = sum(value - before[1].get(pid, 0.0) for pid, value in used.items())
        return max(0.0, 100.0 * spent / seconds) if seconds > 0 else 0.0
