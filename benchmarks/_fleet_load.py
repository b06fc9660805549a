"""What a fleet costs a hub, from the fleet's side: many devices of few processes, at full speed.

Unlike simulated devices these do not live: each scenario sends one kind of message as fast as the hub takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from milonga.pinning import HUB_NAME, authority_of, pin_of
from milonga.v1 import agent_pb2, agent_pb2_grpc, devices_pb2
from milonga_agent.hub import Enroller
from milonga_agent.keys import new_key, request_for
from milonga_agent.state import Credentials, Identity

_AT_A_TIME = 64


@dataclass(frozen=True)
class Target:
    """A hub, and a token that lets devices in."""

    hub: str
    join_token: str


@dataclass(frozen=True)
class Member:
    """A device with its certificate."""

    identity: Identity
    credentials: Credentials


def keys(count: int) -> list[tuple[bytes, bytes]]:
    """Return so many keys with their certificate requests: that is the devices' work, not the hub's."""
    made = [new_key() for _ in range(count)]
    return [(key, request_for(load_pem_private_key(key, password=None))) for key in made]


async def enrol(target: Target, prefix: str, made: list[tuple[bytes, bytes]]) -> list[Member]:
    """Let devices join over a few connections, many at a time; return them by name."""
    host, _, port = target.hub.rpartition(":")
    authority = await asyncio.to_thread(authority_of, host, int(port), pin_of(target.join_token))
    enrollers = [Enroller(target.hub, authority) for _ in range(4)]
    inventory = devices_pb2.Inventory(board="bench", machine_id="bench", cores=4, memory_bytes=4 << 30)
    members: list[Member] = []
    waiting = iter(enumerate(made))

    async def work(enroller: Enroller) -> None:
        for number, (key, request) in waiting:
            answer = await enroller.enrol(
                agent_pb2.EnrolRequest(
                    join_token=target.join_token.partition(".")[0], device=f"{prefix}-{number:05}",
                    inventory=inventory, agent_version="bench", simulated=True, certificate_request=request,
                )
            )  # fmt: skip
            identity = Identity(
                answer.device, answer.device_type, target.hub, answer.device_port, answer.mqtt_host, answer.mqtt_port
            )
            members.append(Member(identity, Credentials(authority.encode(), key, answer.certificate.encode())))

    await asyncio.gather(*(work(enrollers[number % len(enrollers)]) for number in range(_AT_A_TIME)))
    for enroller in enrollers:
        await enroller.close()
    return sorted(members, key=lambda member: member.identity.device)


class Stream:
    """One device's stream, by hand."""

    def __init__(self, member: Member, address: str = "") -> None:
        """With an address the stream is opened there, and no certificate is shown."""
        self.member = member
        options = [("grpc.ssl_target_name_override", HUB_NAME), ("grpc.use_local_subchannel_pool", 1)]
        shown = (None, None) if address else (member.credentials.key, member.credentials.certificate)
        credentials = grpc.ssl_channel_credentials(member.credentials.authority, *shown)
        where = address or f"{member.identity.hub.rpartition(':')[0]}:{member.identity.device_port}"
        self._channel = grpc.aio.secure_channel(where, credentials, options)
        self.call: Any = agent_pb2_grpc.AgentServiceStub(self._channel).Connect()

    async def open(self) -> None:
        """Say hello; on return the hub has let the device in."""
        hello = agent_pb2.Hello(agent_version="bench", boot_id="1")
        hello.inventory.board, hello.inventory.machine_id = "bench", self.member.identity.device
        await self.call.write(agent_pb2.ConnectRequest(hello=hello))
        await self.call.read()

    async def beat(self, count: int, message: str = "") -> None:
        """Send heartbeats, the last of them with this message."""
        beat = agent_pb2.ConnectRequest(heartbeat=agent_pb2.Heartbeat(status=agent_pb2.AgentStatus()))
        for _ in range(count - 1):
            await self.call.write(beat)
        last = agent_pb2.Heartbeat(status=agent_pb2.AgentStatus(message=message))
        await self.call.write(agent_pb2.ConnectRequest(heartbeat=last))

    async def close(self) -> None:
        self.call.cancel()
        await self._channel.close()


@asynccontextmanager
async def streams(members: list[Member], at_a_time: int = 50, address: str = "") -> AsyncIterator[list[Stream]]:
    """Hold a stream of each member open; with an address, there and without certificates."""
    opened: list[Stream] = []
    async with AsyncExitStack() as stack:
        for start in range(0, len(members), at_a_time):
            batch = [Stream(member, address) for member in members[start : start + at_a_time]]
            for stream in batch:
                stack.push_async_callback(stream.close)
            await asyncio.gather(*(stream.open() for stream in batch))
            opened += batch
        yield opened
