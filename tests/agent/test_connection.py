"""How an agent comes back to its hub."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from milonga.v1 import agent_pb2
from milonga_agent import connection
from milonga_agent.connection import Connection, Said
from milonga_agent.enrolment import Joining
from milonga_agent.errors import HubUnreachable
from milonga_agent.outbox import Outbox
from milonga_agent.state import Credentials, Identity, Store

IDENTITY = Identity("pi-1", "pi5", "127.0.0.1:1", 2, "127.0.0.1", 3)


class _Welcoming:
    """A hub that greets each time and ends the stream at once, as where a copy of the device takes its place."""

    def __init__(self, *_: object) -> None: ...

    async def connect(self, outgoing: object, handle: Any) -> None:
        handle(agent_pb2.ConnectResponse(settings=agent_pb2.Settings(heartbeat_seconds=10)))
        raise HubUnreachable("it connected again")

    async def close(self) -> None: ...


def test_streams_that_end_as_soon_as_they_begin_are_opened_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []

    def backoff_seconds(count: int, source: object) -> float:
        waited.append(count)
        if len(waited) == 5:
            raise asyncio.CancelledError
        return 0.0

    async def hello() -> agent_pb2.Hello:
        return agent_pb2.Hello()

    async def story() -> None:
        monkeypatch.setattr(connection, "Hub", _Welcoming)
        monkeypatch.setattr(connection, "backoff_seconds", backoff_seconds)
        store = Store(tmp_path)
        monkeypatch.setattr(store, "credentials", lambda: Credentials(b"", b"", b""))
        joining = Joining("127.0.0.1:1", "pi-1", lambda: None)  # type: ignore[arg-type, return-value]
        said = Said(hello, agent_pb2.AgentStatus, lambda: None, lambda message: None)
        with pytest.raises(asyncio.CancelledError):
            await Connection(store, joining, Outbox(), None, said).run(IDENTITY)  # type: ignore[arg-type]

    asyncio.run(story())
    assert waited == [1, 2, 3, 4, 5]
