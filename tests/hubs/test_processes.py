"""Two hubs on one PostgreSQL, killed and stopped while they work: `make test-hubs`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import make_url

from tests import postgres_server
from tests.alerts.receivers import web_receiver
from tests.hubs.processes import HubProcess, eventually
from tests.hubs.scene import COUNT, MARKS, Scene, play

pytestmark = MARKS


def test_a_rollout_goes_on_when_the_hub_that_leads_is_killed_in_a_wave(tmp_path: Path, own_server: str) -> None:
    with web_receiver() as receiver:

        async def story(scene: Scene) -> None:
            leader, other = await scene.pair()
            await asyncio.to_thread(other.post, "/api/v1/webhooks/all:apply", {"url": receiver.url, "secret": "s" * 32})
            async with scene.fleet():
                await eventually(lambda: scene.streams().total() == COUNT, "all devices to be online")
                assert len(scene.streams()) == 2, "devices must be at both hubs"
                # A message that is sent and not yet noted when its hub is killed comes again, with its id: docs/hubs.md.
                told = "SELECT state, count(*) FROM webhook_delivery GROUP BY 1"
                await eventually(lambda: scene.rows(told) == [("DELIVERED", COUNT)], "enrolments to be told")
                id = await asyncio.to_thread(scene.rollout, other, [0.25, 0.25, 0.5])
                await eventually(lambda: scene.rows("SELECT 1 FROM assignment"), "the first wave")
                leader.child.kill()
                killed = time.monotonic()
                scene.balancer.take_out(leader.host)
                await eventually(lambda: scene.leader() is other, "the other hub to lead")
                print(f"the lead changed hands after {time.monotonic() - killed:.1f} s, at a look")
                await eventually(lambda: scene.state(id) == "SUCCEEDED", "the rollout to succeed")
            # Nobody was given anything twice, and nobody was left out.
            assert scene.rows("SELECT generation, count(*) FROM assignment GROUP BY 1") == [(1, COUNT)]
            finished = "SELECT state FROM webhook_delivery WHERE event = 'rollout.finished'"
            await eventually(lambda: scene.rows(finished) == [("DELIVERED",)], "the webhook to be told")

        play(tmp_path, own_server, story)
        ids = [json.loads(each)["id"] for each in receiver.bodies]
        assert ids and len(ids) == len(set(ids)), "no message may be sent twice"


def test_a_leader_that_was_stopped_leads_no_more_and_serves_on(tmp_path: Path, own_server: str) -> None:
    async def story(scene: Scene) -> None:
        leader, other = await scene.pair()
        async with scene.fleet():
            await eventually(lambda: scene.streams().total() == COUNT, "all devices to be online")
            leader.signal(signal.SIGSTOP)
            scene.balancer.take_out(leader.host)
            await eventually(lambda: scene.leader() is other, "the other hub to lead")
            id = await asyncio.to_thread(scene.rollout, other, [1.0])
            await eventually(lambda: scene.streams().total() == COUNT, "all devices to be at the other hub")
            leader.signal(signal.SIGCONT)
            await eventually(lambda: "leads no more" in leader.log(), "the first hub to know that it leads no more")
            await eventually(lambda: leader.is_ready, "the first hub to serve on")
            await eventually(lambda: scene.state(id) == "SUCCEEDED", "the rollout to succeed")
        assert scene.rows("SELECT generation, count(*) FROM assignment GROUP BY 1") == [(1, COUNT)]
        assert scene.leader() is other
        leader.child.check()

    play(tmp_path, own_server, story)


def test_a_hub_that_ends_hands_the_lead_over_at_once_and_comes_back_beside_the_other(
    tmp_path: Path, own_server: str
) -> None:
    async def story(scene: Scene) -> None:
        leader, other = await scene.pair()
        async with scene.fleet(2):
            await eventually(lambda: len(scene.streams()) == 2, "a device at each hub")
            ended = time.monotonic()
            assert await asyncio.to_thread(leader.child.stop) == 0
            scene.balancer.take_out(leader.host)
            await eventually(lambda: scene.leader() is other, "the other hub to lead")
            print(f"after {time.monotonic() - ended:.1f} s, its own end among them")
            assert [each["state"] for each in other.ask("/api/v1/hubs")] == ["LEADING"]
            # Upgraded, it comes back beside the other.
            await scene.start(leader)
            await eventually(lambda: len(other.ask("/api/v1/hubs")) == 2, "both to be there")

    play(tmp_path, own_server, story)


@contextlib.contextmanager
def _hanging(url: str) -> Iterator[None]:
    """Stop the processes of the server, as a machine does that hangs: its connections stay, and nobody answers."""
    data = Path(str(make_url(url).query["host"])) / "data"
    first = psutil.Process(int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0]))
    first.suspend()
    others = first.children(recursive=True)
    for each in others:
        each.suspend()
    try:
        yield
    finally:
        for each in (*others, first):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()


@pytest.mark.parametrize("away", ["ended", "hanging"])
def test_hubs_outlive_a_server_that_is_away(tmp_path: Path, own_server: str, away: str) -> None:
    async def story(scene: Scene) -> None:
        hubs = scene.living
        async with scene.fleet(4):
            await eventually(lambda: scene.streams().total() == 4, "all devices to be online")
            with {"ended": _away, "hanging": _hanging}[away](own_server):
                for hub in hubs:
                    found = await eventually(lambda hub=hub: _status(hub, "/readyz") == 503, "not to be ready")  # type: ignore[misc]
                    assert found
                    said = await asyncio.to_thread(hub.ask, "/api/v1/devices")
                    assert said["http_status"] == 503 and "the database does not answer" in said["said"], said
                    assert _status(hub, "/healthz") == 200, "nobody shall start it anew"
                # Longer than a lease lasts.
                await eventually(
                    lambda: all("leads no more" in hub.log() for hub in hubs[:1]), "the lead to be given up"
                )
            for hub in hubs:
                await eventually(lambda hub=hub: hub.is_ready, "to be ready again")  # type: ignore[misc]
                hub.child.check()
            id = await asyncio.to_thread(scene.rollout, hubs[1], [1.0])
            await eventually(lambda: scene.state(id) == "SUCCEEDED", "the rollout to succeed")

    play(tmp_path, own_server, story)


def _status(hub: HubProcess, path: str) -> int:
    found = hub.ask(path)
    return int(found.get("http_status", 200)) if isinstance(found, dict) else 0


@contextlib.contextmanager
def _away(url: str) -> Iterator[None]:
    """Stop the server, and start it again at the end of the block."""
    folder = postgres_server.programs()
    place = Path(str(make_url(url).query["host"]))
    data = place / "data"
    assert folder is not None
    options = (data / "postmaster.opts").read_text(encoding="utf-8").strip().split(" ", 1)[1]
    options = re.sub(r'"-D" "[^"]*"', "", options)
    control: list[str | Path] = [folder / "pg_ctl", "--pgdata", data, "--log", place / "log", "--wait"]
    user = postgres_server._user()
    # Not by subprocess's own `user`, for which it forks: gRPC, which has threads here, does not outlive that.
    control = [*(["runuser", "-u", user, "--"] if user else []), *control]
    quiet: Any = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
    subprocess.run([*control, "--mode", "fast", "stop"], **quiet)
    try:
        yield
    finally:
        subprocess.run([*control, "--options", options, "start"], **quiet)
