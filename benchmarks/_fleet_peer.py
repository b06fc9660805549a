"""A plain hub to hold Milonga's against: gRPC and an ORM, written as most tutorials do, one session and one commit a call.

python -m benchmarks._fleet_peer FOLDER    prints its port, and serves until it is killed

It takes the same messages over TLS, but checks no tokens, signs no certificates and sends nothing down: less work for each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from milonga.v1 import agent_pb2, agent_pb2_grpc
from milonga_hub.authority import Authority
from milonga_hub.transports.grpc import server_credentials
from sqlalchemy import event
from sqlmodel import Field, Session, SQLModel, create_engine


class Machine(SQLModel, table=True):
    """One device."""

    __tablename__ = "bench_machine"
    name: str = Field(primary_key=True)
    board: str = ""
    message: str = ""
    seen_at: datetime | None = None


class Plain(agent_pb2_grpc.EnrolmentServiceServicer, agent_pb2_grpc.AgentServiceServicer):
    """Registers devices and keeps when they were seen."""

    def __init__(self, folder: Path) -> None:
        self._engine = create_engine(f"sqlite:///{folder / 'plain.db'}")
        event.listen(self._engine, "connect", _as_durable_as_the_hub)
        SQLModel.metadata.create_all(self._engine, tables=[SQLModel.metadata.tables["bench_machine"]])

    async def Enrol(self, request: agent_pb2.EnrolRequest, context: Any) -> agent_pb2.EnrolResponse:
        with Session(self._engine) as session:
            session.merge(Machine(name=request.device, board=request.inventory.board))
            session.commit()
        return agent_pb2.EnrolResponse(device=request.device)

    async def Connect(
        self, request_iterator: AsyncIterator[agent_pb2.ConnectRequest], context: Any
    ) -> AsyncIterator[agent_pb2.ConnectResponse]:
        name = ""
        async for request in request_iterator:
            if request.WhichOneof("message") == "hello":
                name = request.hello.inventory.machine_id
                yield agent_pb2.ConnectResponse(settings=agent_pb2.Settings())
                continue
            with Session(self._engine) as session:
                machine = session.get_one(Machine, name)
                machine.seen_at, machine.message = datetime.now(UTC), request.heartbeat.status.message
                session.commit()
            if request.heartbeat.status.message:
                yield agent_pb2.ConnectResponse(settings=agent_pb2.Settings())


def _as_durable_as_the_hub(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


async def _serve(folder: Path) -> None:
    server = grpc.aio.server()
    plain = Plain(folder)  # type: ignore[abstract]  # What is left out is not called.
    agent_pb2_grpc.add_EnrolmentServiceServicer_to_server(plain, server)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(plain, server)
    authority = Authority(folder / "authority")
    port = server.add_secure_port("127.0.0.1:0", server_credentials(authority.server()))
    await server.start()
    print(port, authority.fingerprint, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
