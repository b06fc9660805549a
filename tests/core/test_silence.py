"""A PostgreSQL that takes connections and says nothing: nobody waits for it for ever, and slow statements are no silence."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from milonga_hub.db import Database
from milonga_hub.errors import DatabaseUnreachable
from sqlalchemy import make_url, text

psycopg = pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
silence = pytest.importorskip("milonga_hub.silence")


def _raise(error: Exception) -> Callable[[], Any]:
    def connect() -> Any:
        raise error

    return connect


def _never() -> Any:
    raise AssertionError("nobody may be asked")


def test_of_a_silent_server_one_asks_and_all_others_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(silence.time, "monotonic", lambda: now[0])
    server = silence.Server()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        server.connected(_raise(psycopg.errors.ConnectionTimeout("expired")))
    assert server.is_silent and server.patience == silence.AGAIN_SECONDS
    with pytest.raises(psycopg.OperationalError, match="says nothing"):
        server.connected(_never)
    now[0] = silence.AGAIN_SECONDS
    assert server.connected(lambda: "a connection") == "a connection"
    assert not server.is_silent and server.patience == silence.PATIENCE_SECONDS


def test_a_server_that_refuses_is_not_silent() -> None:
    server = silence.Server()
    assert server.answers(_raise(psycopg.OperationalError("too many clients")))
    with pytest.raises(psycopg.OperationalError, match="too many"):
        server.connected(_raise(psycopg.OperationalError("too many clients")))
    assert not server.is_silent


class Between:
    """Passes bytes between a hub and its server, until it is mute."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._heard = asyncio.Event()
        self._heard.set()

    @contextmanager
    def running(self) -> Iterator[Between]:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            server.close()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            # What is closed ends in the next round.
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def mute(self, *, on: bool) -> None:
        self._loop.call_soon_threadsafe(self._heard.clear if on else self._heard.set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._heard.wait()
            there, to = await asyncio.open_unix_connection(self._socket)
            try:
                await asyncio.gather(self._pump(reader, to), self._pump(there, writer))
            finally:
                to.transport.abort()
        finally:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                await self._heard.wait()
                writer.write(chunk)
            writer.close()


def test_statements_end_where_the_server_falls_silent_and_go_through_when_it_speaks_again(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(silence, "AGAIN_SECONDS", 0.0)
    url = make_url(postgresql)
    with Between(f"{url.query['host']}/.s.PGSQL.5432").running() as between:
        # As short as the driver takes it.
        query = {"connect_timeout": "2"}
        database = Database(
            url.set(host="127.0.0.1", port=between.port, query=query).render_as_string(hide_password=False)
        )

        def ask(statement: str) -> Any:
            with database.session() as session:
                return session.connection().execute(text(statement)).scalar()

        assert ask("SELECT 1 FROM pg_sleep(1)") == 1, "who works longer than patience lasts is not silent"
        between.mute(on=True)
        for _ in range(2):
            with pytest.raises(DatabaseUnreachable, match="database does not answer"):
                ask("SELECT 2")
        between.mute(on=False)
        assert ask("SELECT 3") == 3
        database.close()
