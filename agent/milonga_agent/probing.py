"""Probe the machine in a process that ends: python -m milonga_agent.probing SPEC writes the inventory as it goes to the hub."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from milonga.ending import die_with_parent
from milonga.v1 import devices_pb2

from milonga_agent.errors import AgentError
from milonga_agent.limits import Limits
from milonga_agent.processes import ended_within

_log = logging.getLogger(__name__)

# A device that joins, or loses its hub for a moment, is still the same machine.
_RECENT_SECONDS = 60.0
# A slow board with a slow card, on which many packages are installed.
_LONGEST_SECONDS = 60.0


class Prober:
    """Probes this machine as its operator wants it shown; see inventory.probe."""

    def __init__(
        self,
        limits: Limits,
        engines: tuple[str, ...] | None,
        board: str,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = json.dumps(
            {"limits": asdict(limits), "engines": engines, "board": board, "folder": str(folder)}, sort_keys=True
        )
        self._clock = clock
        self._last: tuple[float, devices_pb2.Inventory] | None = None

    async def recent(self) -> devices_pb2.Inventory:
        """Return what this machine is, as found within the last minute. Raises AgentError."""
        if self._last is None or self._clock() - self._last[0] > _RECENT_SECONDS:
            return await self.now()
        return self._last[1]

    async def now(self) -> devices_pb2.Inventory:
        """Return what this machine is now. Raises AgentError."""
        try:
            inventory = await self._apart()
        except (AgentError, OSError) as error:
            # Better to be larger than never to come to the hub.
            _log.warning("%s; it is probed by the agent itself", error)
            try:
                inventory = probed(self._spec)
            except OSError as problem:
                raise AgentError(f"this machine cannot be probed: {problem}") from problem
        self._last = (self._clock(), inventory)
        return inventory

    async def _apart(self) -> devices_pb2.Inventory:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "milonga_agent.probing", self._spec,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            found, errors = await ended_within(process, _LONGEST_SECONDS)
        except asyncio.TimeoutError as error:
            raise AgentError(f"probing this machine takes longer than {_LONGEST_SECONDS:.0f} s") from error
        if process.returncode:
            raise AgentError(f"probing this machine failed: {errors.decode(errors='replace').strip()[-500:]}")
        return devices_pb2.Inventory.FromString(found)


def probed(spec: str) -> devices_pb2.Inventory:
    """Probe here what the JSON says."""
    from milonga_agent.inventory import probe

    told = json.loads(spec)
    limits = Limits(**{**told["limits"], "cpus": tuple(told["limits"]["cpus"])})
    return probe(limits, told["engines"], told["board"], Path(told["folder"]))


def main() -> int:
    die_with_parent()
    # Whatever plug-ins print goes to the errors.
    out = os.dup(1)
    os.dup2(2, 1)
    found = probed(sys.argv[1])
    with os.fdopen(out, "wb") as file:
        file.write(found.SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
