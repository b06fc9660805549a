"""Two hubs on one PostgreSQL, killed and stopped while they work: `make test-hubs`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from milonga_agent.simulation.fleet import Fleet
from milonga_agent.simulation.spec import Simulation
from milonga_hub.app import Hub
from milonga_hub.devices.known import shipped
from milonga_hub.settings import Settings
from milonga_hub.simulation.machines import machines
from milonga_hub.simulation.spec import FILE
from milonga_hub.transports.mosquitto import installed
from sqlalchemy import create_engine, make_url, text

from tests import postgres_server
from tests.alerts.receivers import web_receiver
from tests.hubs.processes import FRONT, Balancer, Cluster, HubProcess, eventually
from tests.simulation.hubs import give_project, release

pytestmark = [
    pytest.mark.hubs,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(postgres_server.programs() is None, reason=postgres_server.MISSING),
    pytest.mark.skipif(installed() is None, reason="mosquitto 2.0 or newer is not installed"),
]

_COUNT = 20
_FLEET = """
kind: Simulation
name: small
spec:
  machines:
    - {type: raspberry-pi-5, share: 1}
  joins_per_second: 100000
  step_seconds: 1
  requests_per_second: 1
"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a server that this test may stop."""
    with postgres_server.running() as server:
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE hubs")
        engine.dispose()
        yield make_url(server).set(database="hubs").render_as_string(hide_password=False)


class Scene:
    """A cluster that has a project, and a version of it for each device of a simulated fleet."""

    def __init__(self, cluster: Cluster, balancer: Balancer) -> None:
        self.cluster = cluster
        self.balancer = balancer
        self.version = ""

    async def start(self, *hubs: HubProcess) -> None:
        for hub in hubs:
            hub.start()
            await eventually(lambda hub=hub: hub.child.check() or hub.is_ready, f"{hub.host} to be ready")  # type: ignore[misc]
            self.balancer.hosts.append(hub.host)

    @property
    def living(self) -> list[HubProcess]:
        return [hub for hub in self.cluster.hubs if hub.host in self.balancer.hosts]

    def leader(self) -> HubProcess | None:
        """Return who leads, as the database says."""
        for asked in self.living:
            found = asked.ask("/api/v1/hubs")
            if isinstance(found, list):
                leading = [each["http"].partition(":")[0] for each in found if each["state"] == "LEADING"]
                return next((hub for hub in self.living if leading == [hub.host]), None)
        return None

    async def pair(self) -> tuple[HubProcess, HubProcess]:
        """Return who leads and who does not."""
        leader = await eventually(self.leader, "a hub to lead")
        return leader, next(hub for hub in self.living if hub is not leader)

    @asynccontextmanager
    async def fleet(self, count: int = _COUNT) -> AsyncIterator[Fleet]:
        _, spec = FILE.parse(_FLEET, "small.yaml")
        made = await asyncio.to_thread(self.living[0].post, "/api/v1/join_tokens", {"uses": count})
        said: dict[str, Any] = {**spec.message(), "machines": machines(spec.machines, shipped())}
        hub = f"{FRONT}:{self.cluster.ports['grpc']}"
        fleet = Fleet(Simulation.of({**said, "hub": hub, "join_token": made["secret"], "devices": count, "seed": 1}))
        living = asyncio.create_task(fleet.run())
        try:
            yield fleet
            assert not living.done(), living.exception()
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)

    def streams(self) -> Counter[str]:
        """Return how many devices are connected, by hub."""
        return Counter(row[0] for row in self.rows("SELECT hub FROM device WHERE state = 'ONLINE'"))

    def rows(self, statement: str) -> list[Any]:
        engine = create_engine(self.cluster.url)
        with engine.connect() as connection:
            found = [*connection.execute(text(statement))]
        engine.dispose()
        return found

    def rollout(self, asked: HubProcess, waves: list[float]) -> str:
        spec = {"waves": waves, "soak_seconds": 0.0, "max_failure_ratio": 0.5}
        body = {"model_version": self.version, "selector": "", "spec": spec, "request_id": "once"}
        return str(asked.post("/api/v1/rollouts", body)["id"])

    def state(self, rollout: str) -> str:
        found = self.living[0].ask(f"/api/v1/rollouts/{rollout}")
        return str(found.get("state", "")) if isinstance(found, dict) else ""


def play(tmp_path: Path, url: str, story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    """Let the story happen to two hubs that are up."""
    cluster = Cluster(tmp_path, url)

    async def whole() -> None:
        async with Balancer([*cluster.ports.values()]).running() as balancer:
            scene = Scene(cluster, balancer)
            scene.version = await asyncio.to_thread(_prepared, cluster, tmp_path)
            await scene.start(*cluster.hubs)
            await story(scene)

    try:
        asyncio.run(whole())
    finally:
        cluster.close()


def _prepared(cluster: Cluster, folder: Path) -> str:
    hub = Hub(Settings(data_dir=cluster.data, database_url=cluster.url, broker=cluster.broker))
    hub.signing.prepare()
    give_project(hub, folder / "project")
    version = release(hub.models, hub.builds, folder / "made", 1, ["raspberry-pi-5"])
    hub.close()
    return version


def test_a_rollout_goes_on_when_the_hub_that_leads_is_killed_in_a_wave(tmp_path: Path, url: str) -> None:
    with web_receiver() as receiver:

        async def story(scene: Scene) -> None:
            leader, other = await scene.pair()
            await asyncio.to_thread(other.post, "/api/v1/webhooks/all:apply", {"url": receiver.url, "secret": "s" * 32})
            async with scene.fleet():
                await eventually(lambda: scene.streams().total() == _COUNT, "all devices to be online")
                assert len(scene.streams()) == 2, "devices must be at both hubs"
                # A message that is sent and not yet noted when its hub is killed comes again, with its id: docs/hubs.md.
                told = "SELECT state, count(*) FROM webhook_delivery GROUP BY 1"
                await eventually(lambda: scene.rows(told) == [("DELIVERED", _COUNT)], "enrolments to be told")
                id = await asyncio.to_thread(scene.rollout, other, [0.25, 0.25, 0.5])
                await eventually(lambda: scene.rows("SELECT 1 FROM assignment"), "the first wave")
                leader.child.kill()
                killed = time.monotonic()
                scene.balancer.take_out(leader.host)
                await eventually(lambda: scene.leader() is other, "the other hub to lead")
                print(f"the lead changed hands after {time.monotonic() - killed:.1f} s, at a look")
                await eventually(lambda: scene.state(id) == "SUCCEEDED", "the rollout to succeed")
            # Nobody was given anything twice, and nobody was left out.
            assert scene.rows("SELECT generation, count(*) FROM assignment GROUP BY 1") == [(1, _COUNT)]
            finished = "SELECT state FROM webhook_delivery WHERE event = 'rollout.finished'"
            await eventually(lambda: scene.rows(finished) == [("DELIVERED",)], "the webhook to be told")

        play(tmp_path, url, story)
        ids = [json.loads(each)["id"] for each in receiver.bodies]
        assert ids and len(ids) == len(set(ids)), "no message may be sent twice"


def test_a_leader_that_was_stopped_leads_no_more_and_serves_on(tmp_path: Path, url: str) -> None:
    async def story(scene: Scene) -> None:
        leader, other = await scene.pair()
        async with scene.fleet():
            await eventually(lambda: scene.streams().total() == _COUNT, "all devices to be online")
            leader.signal(signal.SIGSTOP)
            scene.balancer.take_out(leader.host)
            await eventually(lambda: scene.leader() is other, "the other hub to lead")
            id = await asyncio.to_thread(scene.rollout, other, [1.0])
            await eventually(lambda: scene.streams().total() == _COUNT, "all devices to be at the other hub")
            leader.signal(signal.SIGCONT)
            await eventually(lambda: "leads no more" in leader.log(), "the first hub to know that it leads no more")
            await eventually(lambda: leader.is_ready, "the first hub to serve on")
            await eventually(lambda: scene.state(id) == "SUCCEEDED", "the rollout to succeed")
        assert scene.rows("SELECT generation, count(*) FROM assignment GROUP BY 1") == [(1, _COUNT)]
        assert scene.leader() is other
        leader.child.check()

    play(tmp_path, url, story)


def test_a_hub_that_ends_hands_the_lead_over_at_once_and_comes_back_beside_the_other(tmp_path: Path, url: str) -> None:
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

    play(tmp_path, url, story)


def test_hubs_outlive_a_server_that_is_away(tmp_path: Path, url: str) -> None:
    async def story(scene: Scene) -> None:
        hubs = scene.living
        async with scene.fleet(4):
            await eventually(lambda: scene.streams().total() == 4, "all devices to be online")
            with _away(url):
                for hub in hubs:
                    found = await eventually(lambda hub=hub: _status(hub, "/readyz") == 503, "not to be ready")  # type: ignore[misc]
                    assert found
                    said = await asyncio.to_thread(hub.ask, "/api/v1/devices")
                    assert said["http_status"] == 503 and "the database does not answer" in said["said"], said
                # Longer than a lease lasts.
                await eventually(
                    lambda: all("leads no more" in hub.log() for hub in hubs[:1]), "the lead to be given up"
                )
            for hub in hubs:
                await eventually(lambda hub=hub: hub.is_ready, "to be ready again")  # type: ignore[misc]
                hub.child.check()
            id = await asyncio.to_thread(scene.rollout, hubs[1], [1.0])
            await eventually(lambda: scene.state(id) == "SUCCEEDED", "the rollout to succeed")

    play(tmp_path, url, story)


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
