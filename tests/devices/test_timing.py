"""Kernels are timed by a connected device of the type, one file after the other, whatever becomes of devices meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from milonga.v1 import agent_pb2, devices_pb2
from milonga_hub.devices.timing import Timed
from milonga_hub.devices.values import TimingItem
from milonga_hub.errors import FailedPrecondition

from tests.devices.world import Agent, World, hub, run

TVM = [devices_pb2.Engine(name="tvm", version="0.27")]


def _item(world: World, count: int = 2) -> TimingItem:
    session, kernels = world.file(b"a session", "session.json"), world.file(b"some kernels", "kernels.zip")
    return TimingItem(session, kernels, b"a signature", count, 0.3, 30.0, 60.0)


def _time(world: World, item: TimingItem, wanted: str = "", **choices: Any) -> asyncio.Task[Timed]:
    return asyncio.create_task(world.devices._timing.time("board-1", item, wanted, **choices))


async def _able(world: World, name: str = "pi-1") -> Agent:
    agent = Agent(world, name, engines=TVM)
    await agent.enrol()
    await agent.connect(knows_tuning=True)
    return agent


async def _answer(agent: Agent, request: agent_pb2.TuningRequest, times: Sequence[float], error: str = "") -> None:
    kernels = [agent_pb2.KernelTime(ms=ms, error="" if ms else "it crashed") for ms in times]
    result = agent_pb2.TuningResult(id=request.id, error=error, kernels=kernels)
    await agent.stream.write(agent_pb2.ConnectRequest(tuning_result=result))


def test_a_device_gets_the_kernels_while_it_times_them_and_no_longer(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, await _able(world) as agent:
            item = _item(world)
            timing = _time(world, item)
            request = await agent.hear("tuning_request")
            assert (request.signature, request.max_seconds_each) == (b"a signature", 30.0)
            assert await agent.fetch(request.session.digest) == [b"a session"]
            assert await agent.fetch(request.kernels.digest) == [b"some kernels"]
            await _answer(agent, request, [1.5, 0.0])
            timed = await timing
            assert timed.device == "pi-1"
            assert [(one.ms, one.error) for one in timed.kernels] == [(1.5, ""), (0.0, "it crashed")]
            assert not world.devices.may_fetch("pi-1", item.kernels.digest)

    run(story())


def test_a_device_that_is_lost_is_waited_for_and_asked_again_until_it_was_lost_too_often(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, await _able(world) as agent:
            told: list[str] = []
            timing = _time(world, _item(world), tell=told.append)
            for _ in range(3):
                await agent.hear("tuning_request")
                agent.stream.cancel()
                await world.until(lambda: any("waiting for a device" in words for words in told) or timing.done())
                told.clear()
                await agent.connect(knows_tuning=True)
            timed = await timing
            assert {one.error for one in timed.kernels} == {"pi-1 disconnected while timing it, 3 times in all"}
            again = _time(world, _item(world))
            await _answer(agent, await agent.hear("tuning_request"), [1.0, 1.0])
            assert (await again).device == "pi-1"

    run(story())


def test_the_wanted_device_is_asked_else_the_one_of_before(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, await _able(world, "pi-1") as one, await _able(world, "pi-2") as other:
            for agent, choices in ((one, {}), (other, {"preferred": "pi-2"}), (other, {"wanted": "pi-2"})):
                timing = _time(world, _item(world), **choices)
                await _answer(agent, await agent.hear("tuning_request"), [1.0, 1.0])
                assert (await timing).device == agent.name

    run(story())


async def _why(world: World, **choices: Any) -> str:
    with pytest.raises(FailedPrecondition) as refused:
        await _time(world, _item(world), patience_seconds=0.0, **choices)
    return str(refused.value)


def test_that_no_device_can_is_told_with_what_to_do(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, Agent(world, "pi-1") as bare:
            assert "no device of type board-1 was connected" in await _why(world)
            await bare.join()
            assert "has tvm; install it there: pip install 'milonga-agent[tvm]'" in await _why(world)
            assert "no pi-1 that is connected has tvm" in await _why(world, wanted="pi-1")
        async with hub(tmp_path / "other") as world, Agent(world, "pi-1", engines=TVM) as old:
            await old.join()
            assert "has an agent that times kernels; update it" in await _why(world)

    run(story())


def test_a_device_that_refuses_or_answers_for_others_ends_the_tuning(tmp_path: Path) -> None:
    async def story() -> None:
        async with hub(tmp_path) as world, await _able(world) as agent:
            timing = _time(world, _item(world))
            await _answer(agent, await agent.hear("tuning_request"), [], "refused: nobody has signed it")
            with pytest.raises(FailedPrecondition, match="pi-1 timed nothing: refused: nobody has signed it"):
                await timing
            timing = _time(world, _item(world))
            await _answer(agent, await agent.hear("tuning_request"), [1.0])
            with pytest.raises(FailedPrecondition, match="answered for 1 kernels of 2"):
                await timing

    run(story())
