"""Wait for a PostgreSQL as long as it works, and no longer where it says nothing any more.

A server whose processes are stopped, whose machine hangs, or before which packets are dropped keeps its connections open: nothing
breaks, and who waits would wait for ever. So who has heard nothing for some seconds asks whether the server lets anybody in.
Where it does, the statement may take as long as it needs; where it does not, everybody who waits for it is told.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.errors import ConnectionTimeout
from sqlalchemy import Engine, event

# Statements of pages take less; while a longer one lasts, a connection is opened each so many seconds.
PATIENCE_SECONDS = 5.0
# Of a server that was silent: who comes meanwhile is refused at once, so that calls do not pile up.
AGAIN_SECONDS = 1.0
_SAYS_NOTHING = "the server takes connections and says nothing"


@dataclass
class Server:
    """What is known of one server by all who wait for it. Safe to use from several threads."""

    patience_seconds: float = field(default_factory=lambda: PATIENCE_SECONDS)

    def __post_init__(self) -> None:
        self.is_silent = False
        self._heard_at = -AGAIN_SECONDS
        self._asking = threading.Lock()

    @property
    def patience(self) -> float:
        """Return for how many seconds who waits does not ask."""
        return min(AGAIN_SECONDS, self.patience_seconds) if self.is_silent else self.patience_seconds

    def demand(self) -> None:
        """Raise OperationalError where the server was silent a moment ago, or somebody is asking it just now."""
        if self.is_silent and (self._asking.locked() or self._is_known()):
            raise psycopg.OperationalError(_SAYS_NOTHING)

    def connected(self, connect: Callable[[], Any]) -> Any:
        """Return what `connect` does, and know from it whether the server answers. One asks at a time where it did not."""
        if not self.is_silent:
            return self._tried(connect)
        self.demand()
        with self._asking:
            return self._tried(connect)

    def answers(self, connect: Callable[[], Any]) -> bool:
        """Return whether the server lets anybody in, or says why not."""
        with self._asking:
            if not self._is_known():
                # "Too many clients", or nobody there at all: what waits hears of it by itself.
                with contextlib.suppress(psycopg.OperationalError):
                    self._tried(connect).close()
            return not self.is_silent

    def _tried(self, connect: Callable[[], Any]) -> Any:
        try:
            made = connect()
        except ConnectionTimeout:
            self._know(silent=True)
            raise
        except psycopg.OperationalError:
            self._know(silent=False)
            raise
        self._know(silent=False)
        return made

    def _know(self, *, silent: bool) -> None:
        self.is_silent, self._heard_at = silent, time.monotonic()

    def _is_known(self) -> bool:
        return time.monotonic() - self._heard_at < AGAIN_SECONDS


class Connection(psycopg.Connection[Any]):
    """One that ends with OperationalError where its server says nothing any more."""

    server: Server | None = None
    again: Callable[[], Connection]

    def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
        return super().wait(gen if self.server is None else self._watched(gen, self.server), *arguments, **named)

    def _watched(self, gen: Any, server: Server) -> Generator[Any, Any, Any]:
        """Do what psycopg's generator does. It yields for what it waits, and is sent what there is, or 0 each tenth of a second."""
        try:
            wanted = next(gen)
            heard_at = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > server.patience:
                    if not server.answers(self.again):
                        # The statement may be done there all the same; nobody here hears of it.
                        self.pgconn.finish()
                        raise psycopg.OperationalError(_SAYS_NOTHING)
                    heard_at = time.monotonic()
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def watch(engine: Engine) -> None:
    """Let the engine's connections not wait for a server that says nothing."""
    server = Server()

    def connect(dialect: Any, record: Any, arguments: Any, named: dict[str, Any]) -> Connection:
        def again() -> Connection:
            return Connection.connect(*arguments, **named)

        made: Connection = server.connected(again)
        made.server, made.again = server, again
        return made

    event.listen(engine, "do_connect", connect)
