"""A new model runs beside the one that serves, on copies of its requests, and serves only where the two agree."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from milonga_agent import shadow as shadowing
from milonga_agent.agreement import compare, size, summary
from milonga_agent.answers import Answer
from milonga_agent.assignments import wish_of
from milonga_agent.comparing import Comparison, judge, nothing_to_compare
from milonga_agent.copying import Copier
from milonga_agent.errors import BadBundle
from milonga_agent.plan import Shadow, State, Wish
from milonga_agent.shadow import ShadowWorker
from milonga_hub.devices.models import Assignment, ShadowSpec, TooFewRequests
from milonga_hub.devices.rpc import _outgoing

from tests.agent.bundles import Example, example
from tests.agent.test_agent import Running, online
from tests.devices.world import run

WANTED = Shadow(minutes=30, min_requests=50, max_disagreement=0.1)


def _seen(requests: int, differing: int) -> Comparison:
    return Comparison(requests, answers=requests, agreeing=requests - differing, serving_ms=5.0, shadow_ms=2.5)


def test_a_shadow_that_agrees_may_serve_and_says_in_numbers_how_far() -> None:
    said = judge(WANTED, _seen(200, 20))
    assert said == "200 requests compared, 10.0% of the answers differ, 2.5 ms where what serves takes 5 ms (medians)"


def test_a_shadow_that_differs_too_often_may_not_serve() -> None:
    with pytest.raises(BadBundle, match=r"10\.5% of the answers differ.*at most 10\.0% may differ"):
        judge(WANTED, _seen(200, 21))


def test_too_few_requests_fail_unless_the_rollout_goes_on() -> None:
    with pytest.raises(BadBundle, match="saw only 3 requests in 30 minutes, 50 were asked for"):
        judge(WANTED, _seen(3, 0))
    lenient = Shadow(go_on=True)
    assert judge(lenient, _seen(3, 0)).startswith("saw only 3 requests in 30 minutes, 50 were asked for; 3 requests")
    assert judge(lenient, _seen(0, 0)) == "saw only 0 requests in 30 minutes, 50 were asked for"
    with pytest.raises(BadBundle, match=r"33\.3% of the answers differ"):
        judge(lenient, _seen(3, 1))


def test_there_is_nothing_to_compare_where_nothing_of_the_project_serves() -> None:
    new, old, other = Wish(2, "b", project="digits"), Wish(1, "a", project="digits"), Wish(1, "a", project="bolts")
    assert nothing_to_compare(State(wish=new, active=old)) == ""
    for active in (Wish(), other):
        assert "nothing of this project served" in nothing_to_compare(State(wish=new, active=active))
    assert "already" in nothing_to_compare(State(wish=new, active=new))


def test_classes_are_compared_picture_by_picture() -> None:
    assert compare({"class": ["1", "2", "3"]}, {"class": ["1", "7", "3"]}) == (3, 2)


def _boxes(*pictures: list[tuple[str, float]]) -> dict[str, Any]:
    """Return what is told of square boxes of 10 pixels, by class and left side."""
    boxes = [(left, 0.0, left + 10.0, 10.0) for picture in pictures for _, left in picture]
    names = [name for picture in pictures for name, _ in picture]
    return {"class": names, "boxes": [list(box) for box in boxes], "count": [len(picture) for picture in pictures]}


def test_boxes_agree_where_they_overlap_by_a_half_and_have_the_same_class() -> None:
    # 3 px aside: 7 of 13 are shared. 4 px aside: 6 of 14.
    assert compare(_boxes([("nut", 0.0)]), _boxes([("nut", 3.0)])) == (2, 2)
    assert compare(_boxes([("nut", 0.0)]), _boxes([("nut", 4.0)])) == (2, 0)
    assert compare(_boxes([("nut", 0.0)]), _boxes([("bolt", 0.0)])) == (2, 0)


def test_each_box_has_one_partner_at_most_and_only_in_its_own_picture() -> None:
    assert compare(_boxes([("nut", 0.0)]), _boxes([("nut", 1.0), ("nut", 2.0)])) == (3, 2)
    assert compare(_boxes([("nut", 0.0)], []), _boxes([], [("nut", 0.0)])) == (2, 0)
    assert compare(_boxes([], []), _boxes([], [])) == (0, 0)


def test_a_classifier_and_a_detector_never_agree() -> None:
    assert compare({"class": ["1", "2"]}, _boxes([("1", 0.0)], [])) == (2, 0)
    assert size(_boxes([])) == 1, "a request that fails counts even where nothing was seen"


def test_what_the_hub_says_of_a_shadow_is_what_the_agent_does() -> None:
    told = ShadowSpec(minutes=0.5, min_requests=7, max_disagreement=0.0, share=0.25, too_few_requests="GO_ON")
    wish = wish_of(_outgoing(Assignment(device="d", generation=1, shadow=told)).assignment)
    assert wish.shadow == Shadow(0.5, 7, 0.0, 0.25, go_on=True)
    assert told.too_few_requests is TooFewRequests.GO_ON
    assert wish_of(_outgoing(Assignment(device="d", generation=1, shadow=ShadowSpec())).assignment).shadow == Shadow()
    assert wish_of(_outgoing(Assignment(device="d", generation=1)).assignment).shadow is None


def test_requests_that_come_while_one_is_compared_are_skipped_and_never_wait() -> None:
    answer = Answer({"class": ["1"]}, np.ones(1, dtype=np.float32), np.ones(1, dtype=np.int64))
    copier = Copier("\0nobody-listens-here", share=1.0)  # It is not started: what is under way never ends.
    for _ in range(3):
        copier.offer(b"body", None, answer)
    assert (copier._busy, copier._skipped) == (True, 2)
    assert summary(answer) == {"class": ["1"]}
    none = Copier("\0nobody-listens-here", share=0.0)
    none.offer(b"body", None, answer)
    assert not none._busy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    folder = tmp_path_factory.mktemp("shadow")
    return {
        "old": example(folder / "1", version=1),
        "same": example(folder / "2", version=2),
        "other": example(folder / "3", version=3, classes="9876543210"),
    }


class Watched:
    """A clock that stands still until the shadow has seen enough, and what it saw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, enough: int, after: int = 0) -> None:
        """`after`: the process of the shadow before, which may be asked for its counts until it ends."""
        self.seen = Comparison()
        count = ShadowWorker.count

        async def counted(worker: ShadowWorker) -> Comparison:
            seen = await count(worker)
            if worker.process.pid != after:
                self.pid, self.seen = worker.process.pid, seen
            return seen

        monkeypatch.setattr(ShadowWorker, "count", counted)
        monkeypatch.setattr(shadowing, "_LOOK_SECONDS", 0.02)
        monkeypatch.setattr(shadowing, "_now", lambda: 1e6 if self.seen.requests >= enough else 0.0)

    pid = 0


async def _ask(agent: Running, made: Example, until: Callable[[], bool]) -> set[str]:
    """Ask as clients do, one request after the other; return the versions that answered. Every answer must be one."""
    assert agent.agent._serving is not None
    address = f"http://127.0.0.1:{agent.agent._serving.port}/v2/models/digits/infer"
    versions = set()
    async with httpx.AsyncClient() as client:
        index = 0
        while not until():
            index += 1
            data = base64.b64encode(made.png(700 + index % 20)).decode()
            entry = {"name": "picture", "shape": [1], "datatype": "BYTES", "data": [data]}
            response = await client.post(address, json={"inputs": [entry]})
            assert response.status_code == 200, response.text
            versions.add(response.json()["model_version"])
    return versions


def _told(agent: Running, generation: int, step: str, state: str) -> list[str]:
    steps = agent.world.devices.steps("pi-1", generation)
    return [each.message for each in steps if (each.step, each.state) == (step, state)]


def test_a_shadow_on_a_device(tmp_path: Path, made: dict[str, Example], monkeypatch: pytest.MonkeyPatch) -> None:
    """One agent, one story: starting one takes longer than what is looked at."""

    async def story() -> None:
        async with online(tmp_path) as agent:
            await agent.serve(made["old"])
            old = made["old"].bundle.digest
            agent.sign(made["other"])
            agent.sign(made["same"])
            devices = agent.world.devices

            # One that gives other answers never gives them to anybody.
            watched = Watched(monkeypatch, enough=5)
            generation = agent.assign(made["other"], ShadowSpec(min_requests=5))
            ended = asyncio.ensure_future(agent.until(lambda device: device.reported_generation == generation))
            assert await _ask(agent, made["old"], ended.done) == {"1"}
            assert devices.get("pi-1").active_bundle == old
            (said,) = _told(agent, generation, "SHADOW", "FAILED")
            assert "100.0% of the answers differ" in said and "at most 10.0% may differ" in said
            assert watched.seen.shadow_ms > 0.0 and watched.seen.serving_ms > 0.0
            assert _told(agent, generation, "ROLL_BACK", "SUCCEEDED") and not _told(
                agent, generation, "ACTIVATE", "STARTED"
            )

            # One that is killed, as for want of memory, takes nothing with it.
            watched = Watched(monkeypatch, enough=10**9, after=watched.pid)
            generation = agent.assign(made["same"], ShadowSpec())
            ended = asyncio.ensure_future(agent.until(lambda device: device.reported_generation == generation))
            await _ask(agent, made["old"], lambda: watched.seen.requests > 0)
            os.kill(watched.pid, signal.SIGKILL)
            assert await _ask(agent, made["old"], ended.done) in ({"1"}, set())
            (said,) = _told(agent, generation, "SHADOW", "FAILED")
            assert "ended while it ran beside the one that serves (signal 9)" in said

            # A newer wish does not wait for the end of one.
            watched = Watched(monkeypatch, enough=10**9, after=watched.pid)
            agent.assign(made["other"], ShadowSpec(minutes=10_000))
            await _ask(agent, made["old"], lambda: watched.seen.requests > 0)

            # One that agrees serves in the end.
            watched = Watched(monkeypatch, enough=5, after=watched.pid)
            generation = agent.assign(made["same"], ShadowSpec(min_requests=5))
            ended = asyncio.ensure_future(agent.until(lambda device: device.reported_generation == generation))
            assert await _ask(agent, made["old"], ended.done) <= {"1", "2"}
            assert devices.get("pi-1").active_bundle == made["same"].bundle.digest
            (said,) = _told(agent, generation, "SHADOW", "SUCCEEDED")
            assert "0.0% of the answers differ" in said and "medians" in said

    # Three models and five processes: on a busy machine that takes a while.
    run(story(), 300)
