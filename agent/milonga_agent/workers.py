"""The processes that hold an engine, as the daemon sees them: they are told and asked in JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import Any

from milonga.waiting import within

from milonga_agent.engines import Choice
from milonga_agent.errors import BadBundle
from milonga_agent.limits import Limits
from milonga_agent.plan import Wish
from milonga_agent.processes import next_said

# Loading a large engine on a slow board takes this long at most.
_READY_SECONDS = 180.0
ANSWER_SECONDS = 30.0


class Child:
    """One process with one bundle loaded."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def kill(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()

    async def _ready(self) -> None:
        """Return when it has loaded and probed the bundle. Raises BadBundle saying why not; then it has ended."""
        try:
            said = await self._hear(_READY_SECONDS)
        except BaseException:
            await self.kill()
            raise
        if said.get("is") != "ready":
            await self.kill()
            raise BadBundle(str(said.get("message", f"the worker ended with exit code {self.process.returncode}")))

    async def _tell(self, wanted: str, **more: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": wanted, **more}).encode() + b"\n")
            await self.process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise BadBundle("the worker ended while serving") from error

    async def _hear(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        try:
            said = await within(next_said(self.process.stdout), seconds)
        except asyncio.TimeoutError:
            return {"message": f"the worker did not answer within {seconds:.0f} s"}
        if said is None:
            await self.process.wait()
            return {}
        return said


async def begin(
    module: str, bundle: Path, choice: Choice, listening: socket.socket, limits: Limits, *more: str
) -> asyncio.subprocess.Process:
    """Start a process that loads the bundle and has the socket."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "--bundle", str(bundle), "--target", choice.target,
        "--model", str(choice.model), "--socket", str(listening.fileno()), "--threads", str(limits.threads),
        "--memory-bytes", str(limits.memory_bytes), *more,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[listening.fileno()], limit=1 << 22,
    )  # fmt: skip


class Worker(Child):
    """One that serves, or stands by."""

    def __init__(self, wish: Wish, choice: Choice, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self.wish = wish
        self.choice = choice

    @classmethod
    async def start(
        cls,
        wish: Wish,
        bundle: Path,
        choice: Choice,
        listening: socket.socket,
        limits: Limits,
        slowest_ms: float | None = None,
    ) -> Worker:
        """Start the process and return when it has loaded and probed the bundle. Raises BadBundle saying why not."""
        slowest = ("--slowest-ms", str(slowest_ms or 0.0))
        process = await begin("milonga_agent.worker", bundle, choice, listening, limits, *slowest)
        worker = cls(wish, choice, process)
        await worker._ready()
        return worker

    async def serve(self) -> None:
        await self._tell("serve")

    async def sample(self, told: dict[str, Any] | None) -> None:
        """Let it keep pictures for labelling as told, or none."""
        await self._tell("sample", told=told)

    async def copy(self, told: dict[str, Any] | None) -> None:
        """Let it send copies of requests to a shadow as told, or none."""
        await self._tell("copy", told=told)

    async def window(self) -> dict[str, Any]:
        """Return what was counted since the last time. Raises BadBundle where the worker is gone."""
        return await self._counted("window")

    async def drain(self) -> dict[str, Any] | None:
        """Let it finish what it accepted and end; return its last counts, or None where it is gone already."""
        try:
            return await self._counted("drain")
        except (BadBundle, OSError):
            return None
        finally:
            await self.kill()

    async def _counted(self, wanted: str) -> dict[str, Any]:
        await self._tell(wanted)
        said = await self._hear(ANSWER_SECONDS)
        if "window" not in said:
            raise BadBundle("the worker ended while serving")
        counted: dict[str, Any] = said["window"]
        return counted
