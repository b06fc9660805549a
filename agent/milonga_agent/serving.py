"""Keep one worker serving, and swap it for another without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from milonga.waiting import within

from milonga_agent.engines import Choice, Engines
from milonga_agent.errors import BadBundle, InUse
from milonga_agent.limits import Limits
from milonga_agent.plan import Wish
from milonga_agent.pursuit import Tell
from milonga_agent.shadow import ShadowWorker, watch
from milonga_agent.workers import ANSWER_SECONDS, Worker

T = TypeVar("T")

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
        # Where a shadow listens for copies of requests, and for what share of them; None: there is none.
        self._copying: dict[str, Any] | None = None
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

        async def start(choice: Choice) -> Worker:
            # What was measured was the preferred engine.
            allowed_ms = slowest_ms if choice.preferred else None
            return await Worker.start(wish, bundle, choice, self._socket, self._limits, allowed_ms)

        self._standby = await self._first_that_starts(wish, bundle, start)

    async def _first_that_starts(self, wish: Wish, bundle: Path, start: Callable[[Choice], Awaitable[T]]) -> T:
        """Return what runs the bundle in the first of its engines that works. Raises BadBundle where none does."""
        problems = []
        for choice in self._engines.choices(wish.bundle, bundle):
            try:
                started = await start(choice)
            except BadBundle as error:
                self._engines.note(wish.bundle, choice, str(error))
                problems.append((choice.target, str(error)))
            else:
                self._engines.note(wish.bundle, choice)
                return started
        told = [f"{target}: {problem}" if len(problems) > 1 else problem for target, problem in problems]
        raise BadBundle("; ".join(told))

    async def shadow(self, wish: Wish, bundle: Path, tell: Tell) -> str:
        """Run a bundle beside the one that serves, as the wish says; return what came of it. Raises BadBundle where it may not serve.

        `tell` hears how far it is. Whatever it raises ends the shadow, and so does cancelling.
        """
        wanted = wish.shadow
        assert wanted is not None
        async with self._swapping:
            # It runs as fast as what serves, and two beside that are one too many.
            await self._drop_standby()
        address = "\0milonga-shadow-" + secrets.token_hex(16)

        async def start(choice: Choice) -> ShadowWorker:
            return await ShadowWorker.start(address, bundle, choice, self._limits)

        shadow = await self._first_that_starts(wish, bundle, start)
        try:
            await self._copy({"address": address, "share": wanted.share})
            return await watch(shadow, wanted, tell)
        finally:
            await shadow.kill()
            await self._copy(None)

    async def _copy(self, told: dict[str, Any] | None) -> None:
        """Let what serves, and what takes its place, send copies of requests to a shadow, or none."""
        self._copying = told
        if self._active is not None and self._active.alive:
            with contextlib.suppress(BadBundle):  # It has ended; the next one is told.
                await self._active.copy(told)

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
        if self._copying is not None:
            await self._standby.copy(self._copying)
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
            await within(_ready(self.port), ANSWER_SECONDS)
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
