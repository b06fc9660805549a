"""Take a window of what the model did every so often, with what the agent itself used, and hand it to telemetry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from milonga.waiting import within

from milonga_agent.errors import BadBundle
from milonga_agent.machine import Machine
from milonga_agent.plan import Wish
from milonga_agent.sensors import temperature_celsius
from milonga_agent.serving import Serving
from milonga_agent.state import Identity
from milonga_agent.telemetry import Boot, Sender, window_of
from milonga_agent.usage import Usage

_log = logging.getLogger(__name__)


class Windows:
    """Takes the windows of one device. `await windows.run()` works until it is cancelled."""

    def __init__(self, identity: Identity, serving: Serving, boot: Boot, sender: Sender) -> None:
        self._device = identity.device
        self._serving = serving
        self._boot = boot
        self._sender = sender
        self._usage = Usage()
        self._machine = Machine()
        self._seconds = 30.0
        self._changed = asyncio.Event()

    def every(self, seconds: float) -> None:
        """Take them this often from now on."""
        self._seconds = seconds
        self._changed.set()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(self._changed.wait(), self._seconds)
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
        inputs = {**counted["inputs"], **self._machine.take()}
        self._sender.put(self._boot.order, window_of({**counted, "inputs": inputs}, about))
