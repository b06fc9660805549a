"""What the hub has for a device is written when there is something, and a stream that has ended ends what reads of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from milonga_hub.devices.streams import DeviceStream, Outgoing
from milonga_hub.devices.values import AgentSettings
from milonga_hub.devices.writing import Writing
from milonga_hub.errors import Unauthenticated

from tests.devices.world import run


def _settings(seconds: float) -> AgentSettings:
    return AgentSettings(seconds, 30.0, 0.0)


async def _reading(
    stream: DeviceStream, write: Callable[[Outgoing], Awaitable[None]], begun: asyncio.Event
) -> Exception | None:
    """Read for ever, as of a device that says nothing; return why it ended."""
    writing = Writing(stream, write)
    begun.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return writing.problem
    finally:
        await writing.stop()
    return None


def test_messages_are_written_in_their_order_and_an_idle_stream_has_no_task() -> None:
    async def story() -> None:
        stream, written, all_written = DeviceStream("pi-1"), list[Outgoing](), asyncio.Event()

        async def write(message: Outgoing) -> None:
            written.append(message)
            if len(written) == 3:
                all_written.set()

        stream.send("first", _settings(1))
        begun = asyncio.Event()
        reading = asyncio.ensure_future(_reading(stream, write, begun))
        await begun.wait()
        stream.send("second", _settings(2))
        stream.send("third", _settings(3))
        await all_written.wait()
        assert written == [_settings(1), _settings(2), _settings(3)]
        tasks = asyncio.all_tasks() - {reading}
        tasks.discard(asyncio.current_task())
        await asyncio.gather(*tasks)
        assert len(asyncio.all_tasks()) == 2, "this one, and the one that reads"
        reading.cancel()
        assert await reading is None

    run(story())


def test_a_device_that_takes_nothing_is_shut_out_all_the_same() -> None:
    async def story() -> None:
        stream, stuck = DeviceStream("pi-1"), asyncio.Event()

        async def write(message: Outgoing) -> None:
            stuck.set()
            await asyncio.Event().wait()

        reading = asyncio.ensure_future(_reading(stream, write, asyncio.Event()))
        await asyncio.sleep(0)
        stream.send("settings", _settings(1))
        await stuck.wait()
        revoked = Unauthenticated("pi-1 was revoked")
        stream.close(revoked)
        assert await reading is revoked

    run(story())


@pytest.mark.parametrize("broken", [OSError("the line broke"), Unauthenticated("it may not")])
def test_a_line_that_cannot_be_written_ends_the_stream(broken: Exception) -> None:
    async def story() -> None:
        stream = DeviceStream("pi-1")

        async def write(message: Outgoing) -> None:
            raise broken

        stream.send("settings", _settings(1))
        assert await _reading(stream, write, asyncio.Event()) is broken

    run(story())
