"""The agent's stream and its telemetry over lines that break, corrupt and fall silent: nothing is lost that counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from milonga.v1 import agent_pb2, telemetry_pb2
from milonga_agent.errors import HubUnreachable
from milonga_agent.hub import Hub
from milonga_agent.state import Identity, Store
from milonga_agent.telemetry import Sender, Spool
from milonga_hub.bridge import to_proto
from milonga_hub.errors import BlobsUnreachable
from milonga_hub.telemetry.intake import TelemetryIntake
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.transports.mqtt import EmbeddedBroker

from tests.devices.world import run
from tests.telemetry.windows import window
from tests.transfers.lines import Line, line
from tests.transports.fault_proxy import NO_FAULT, Fault, faults

# In the midst of the assignment: handshake and greeting take some 5 kB, the assignment 40.
_MIDST = 20_000


async def _listen(here: Line, heard: list[agent_pb2.ConnectResponse], until: str) -> None:
    """Keep the stream open until such a message has come. Raises HubUnreachable."""
    store = Store(here.folder)
    identity = store.identity()
    assert identity is not None
    hub = Hub(identity, store.credentials(), keepalive_seconds=1.0)
    outgoing: asyncio.Queue[agent_pb2.ConnectRequest] = asyncio.Queue()
    outgoing.put_nowait(agent_pb2.ConnectRequest(hello=agent_pb2.Hello(boot_id="boot-1")))
    came = asyncio.Event()

    def handle(message: agent_pb2.ConnectResponse) -> None:
        heard.append(message)
        if message.WhichOneof("message") == until:
            came.set()

    connected = asyncio.ensure_future(hub.connect(outgoing, handle))
    waiting = asyncio.ensure_future(came.wait())
    try:
        await asyncio.wait([connected, waiting], return_when=asyncio.FIRST_COMPLETED)
        if connected.done():
            connected.result()
    finally:
        for task in (connected, waiting):
            task.cancel()
        await asyncio.gather(connected, waiting, return_exceptions=True)
        await hub.close()


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after_bytes=_MIDST), Fault(corrupt_at_byte=_MIDST), Fault(silent_after_bytes=_MIDST)],
    ids=["cut", "corrupted", "half-open"],
)
def test_an_assignment_that_a_fault_swallowed_is_heard_over_the_next_line(tmp_path: Path, fault: Fault) -> None:
    async def story() -> None:
        async with line(tmp_path, lambda n: fault if n == 0 else NO_FAULT) as here:
            # Files of the same content, under many names.
            wish = here.assign({f"part-{number}": b"x" for number in range(400)})
            heard: list[agent_pb2.ConnectResponse] = []
            with pytest.raises(HubUnreachable, match=r"^the line to the hub at 127\.0\.0\.1:\d+ broke: "):
                await _listen(here, heard, until="assignment")
            assert not any(message.HasField("assignment") for message in heard)
            await _listen(here, heard, until="assignment")
            assert heard[-1].assignment.bundle == wish.bundle
            assert here.proxy.connections == 2

    run(story())


def test_a_line_that_was_never_opened_says_what_to_check(tmp_path: Path) -> None:
    async def story() -> None:
        # In the midst of the handshake.
        async with line(tmp_path, lambda n: Fault(cut_after_bytes=500)) as here:
            with pytest.raises(HubUnreachable, match=r"no hub answers at .*; check the address"):
                await _listen(here, [], until="settings")

    run(story())


def test_a_hub_that_cannot_reach_what_it_needs_is_quoted(tmp_path: Path) -> None:
    def unreachable(name: str) -> bytes:
        raise BlobsUnreachable("the object storage does not answer")

    async def story() -> None:
        async with line(tmp_path) as here:
            here.world.metadata = unreachable
            with pytest.raises(HubUnreachable, match=r"^the hub says: the object storage does not answer$"):
                await here.courier.metadata("timestamp.json")

    run(story())


# Acknowledgements of so many windows go down the line after a handshake of some 3 kB.
_WINDOWS = 250


def test_telemetry_whose_acknowledgements_a_cut_swallowed_is_kept_once(tmp_path: Path) -> None:
    stored: set[int] = set()

    def store(windows: Sequence[TelemetryWindow]) -> None:
        # As the hub's table does, in which device, boot and sequence are the key.
        stored.update(one.sequence for one in windows)

    async def story() -> None:
        async with line(tmp_path) as here:
            broker = EmbeddedBroker(here.world.tls.authority, here.world.devices.authenticate)
            endpoint = await broker.start("127.0.0.1", 0)
            intake = TelemetryIntake(store)
            await intake.start(endpoint)
            async with faults(endpoint.port, lambda n: Fault(cut_after_bytes=6_000) if n == 0 else NO_FAULT) as proxy:
                identity = Identity("pi-1", "board-1", "127.0.0.1:1", 1, "127.0.0.1", proxy.port)
                spool = Spool(here.folder / "spool")
                sender = Sender(identity, "boot", spool, Store(here.folder))
                for sequence in range(_WINDOWS):
                    spool.put(1, to_proto(window(sequence), telemetry_pb2.TelemetryWindow))
                sender.start()
                while any((here.folder / "spool").glob("*.window")):
                    await asyncio.sleep(0.02)
                assert stored == set(range(_WINDOWS))
                assert proxy.connections == 2
                await asyncio.to_thread(sender.stop)
            await intake.stop()
            await broker.stop()

    run(story())
