"""Keep one worker serving, and swap it for another without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from milonga_agent.engines import Choice, Engines
from milonga_agent.errors import BadBundle, InUse
from milonga_agent.limits import Limits
from milonga_agent.plan import Wish

# Loading a large engine on a slow board takes this long at most.
_READY_SECONDS = 180.0
_ANSWER_SECONDS = 30.0
_BACKLOG = 128


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback. Raises InUse, naming the port and the option."""
    try:
        return listening_on("127.0.0.1", port)
    except OSError as error:
        raise InUse(f"port {port} is in use by another program; choose another with --serve-port") from error


def listening_on(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError where the address cannot be taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A port whose last connections are still closing may be taken again at once.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    listening.listen(_BACKLOG)
    return listening


class Worker:
    """One process with one bundle loaded."""

    def __init__(self, wish: Wish, choice: Choice, process: asyncio.subprocess.Process) -> None:
        self.wish = wish
        self.choice = choice
        self.process = process

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
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "milonga_agent.worker", "--bundle", str(bundle), "--target", choice.target,
            "--model", str(choice.model), "--socket", str(listening.fileno()), "--threads", str(limits.threads),
            "--memory-bytes", str(limits.memory_bytes),
            "--slowest-ms", str(slowest_ms or 0.0),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[listening.fileno()], limit=1 << 22,
        )  # fmt: skip
        worker = cls(wish, choice, process)
        try:
            said = await worker._hear(_READY_SECONDS)
        except BaseException:
            await worker.kill()
            raise
        if said.get("is") != "ready":
            await worker.kill()
            raise BadBundle(str(said.get("message", f"the worker ended with exit code {process.returncode}")))
        return worker

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def serve(self) -> None:
        await self._tell("serve")

    async def sample(self, told: dict[str, Any] | None) -> None:
        """Let it keep pictures for labelling as told, or none."""
        await self._tell("sample", told=told)

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

    async def kill(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()

    async def _counted(self, wanted: str) -> dict[str, Any]:
        await self._tell(wanted)
        said = await self._hear(_ANSWER_SECONDS)
        if "window" not in said:
            raise BadBundle("the worker ended while serving")
        counted: dict[str, Any] = said["window"]
        return counted

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
            line = await asyncio.wait_for(self.process.stdout.readline(), seconds)
        except asyncio.TimeoutError:
            return {"message": f"the worker did not answer within {seconds:.0f} s"}
        if not line:
            await self.process.wait()
            return {}
        said: dict[str, Any] = json.loads(line)
        return said


async def _ready(port: int) -> None:
    """Ask as a client does whether requests are answered. Raises OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await writer.drain()
        answer = await reader.readline()
        if b" 200 " not in answer:
            raise ConnectionError(f"it said {answer!r}")
    finally:
        writer.close()


class Serving:
    """The socket that clients know, the worker that answers on it, and the one that stands by."""

    def __init__(
        self, port: int, limits: Limits, keep: Callable[[Wish, dict[str, Any]], None], engines: Engines
    ) -> None:
        """`keep(wish, counts)` takes the last counts of a worker that ends. Raises InUse."""
        self._socket = listen(port)
        self._limits = limits
        self._keep = keep
        self._engines = engines
        self._active: Worker | None = None
        self._standby: Worker | None = None
        # What may be kept for labelling, and of which project; None: nothing.
        self._sampling: tuple[str, dict[str, Any]] | None = None
        # A window is taken from a worker by one at a time.
        self._taking = asyncio.Lock()
        # One change of what serves at a time: the wishes of the hub, and restarts of what has ended.
        self._swapping = asyncio.Lock()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def active(self) -> Worker | None:
        return self._active

    async def sample(self, project: str, told: dict[str, Any] | None) -> None:
        """Let whatever serves this project keep pictures for labelling as told from now on, and all others none."""
        self._sampling = None if told is None else (project, told)
        if self._active is not None and self._active.alive:
            await self._sample(self._active)

    async def _sample(self, worker: Worker) -> None:
        project, told = self._sampling or ("", None)
        with contextlib.suppress(BadBundle):  # It has ended; the next one is told.
            await worker.sample(told if worker.wish.project == project else None)

    async def prepare(self, wish: Wish, bundle: Path, slowest_ms: float | None = None) -> None:
        """Load and probe a bundle beside the one that serves. Raises BadBundle, also where an answer takes too long."""
        async with self._swapping:
            await self._prepare(wish, bundle, slowest_ms)

    async def _prepare(self, wish: Wish, bundle: Path, slowest_ms: float | None) -> None:
        """Load and probe the bundle in the first of its engines that works."""
        await self._drop_standby()
        problems = []
        for choice in self._engines.choices(wish.bundle, bundle):
            # What was measured was the preferred engine.
            allowed_ms = slowest_ms if choice.preferred else None
            try:
                self._standby = await Worker.start(wish, bundle, choice, self._socket, self._limits, allowed_ms)
            except BadBundle as error:
                self._engines.note(wish.bundle, choice, str(error))
                problems.append((choice.target, str(error)))
            else:
                self._engines.note(wish.bundle, choice)
                return
        told = [f"{target}: {problem}" if len(problems) > 1 else problem for target, problem in problems]
        raise BadBundle("; ".join(told))

    async def activate(self, wish: Wish, bundle: Path) -> None:
        """Let the prepared bundle answer from now on; the old one finishes what it accepted."""
        async with self._swapping:
            if self._active is not None and self._active.alive and self._active.wish.bundle == wish.bundle:
                self._active.wish = wish
                await self._drop_standby()
            else:
                await self._activate(wish, bundle)

    async def _activate(self, wish: Wish, bundle: Path) -> None:
        if self._standby is None or self._standby.wish.bundle != wish.bundle or not self._standby.alive:
            await self._prepare(wish, bundle, None)
        assert self._standby is not None
        if self._sampling is not None:
            await self._sample(self._standby)
        await self._standby.serve()
        async with self._taking:
            old, self._active, self._standby = self._active, self._standby, None
            await self._retire(old)

    async def clear(self) -> None:
        """Serve nothing."""
        async with self._swapping:
            await self._drop_standby()
            async with self._taking:
                old, self._active = self._active, None
                await self._retire(old)

    async def demand(self, wish: Wish) -> None:
        """Return if clients get their answers from this bundle now. Raises BadBundle."""
        worker = self._active
        if not wish.bundle:
            if worker is not None:
                raise BadBundle(f"{worker.wish.model_version} still serves, where nothing should")
            return
        if worker is None or not worker.alive or worker.wish.bundle != wish.bundle:
            raise BadBundle(f"{wish.model_version} ended soon after it began to serve")
        try:
            await asyncio.wait_for(_ready(self.port), _ANSWER_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            raise BadBundle(
                f"{wish.model_version} does not answer on port {self.port}: {error or 'no answer'}"
            ) from error

    async def take(self) -> tuple[Wish, dict[str, Any]] | None:
        """Return the counts of the bundle that serves, or None while nothing does. Raises BadBundle if it has died."""
        async with self._taking:
            if self._active is None:
                return None
            return self._active.wish, await self._active.window()

    async def drop(self) -> None:
        """End a worker that has died or does not answer."""
        if self._active is not None:
            await self._active.kill()

    async def close(self) -> None:
        await self.clear()
        self._socket.close()

    async def _retire(self, worker: Worker | None) -> None:
        if worker is not None:
            counted = await worker.drain()
            if counted is not None:
                self._keep(worker.wish, counted)

    async def _drop_standby(self) -> None:
        if self._standby is not None:
            await self._standby.kill()
            self._standby = None
