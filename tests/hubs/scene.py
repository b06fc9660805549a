"""A fleet with two hubs on one PostgreSQL, to which a test lets something happen."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
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
from sqlalchemy import create_engine, text

from tests import postgres_server
from tests.hubs.processes import FRONT, Balancer, Cluster, HubProcess, eventually
from tests.simulation.hubs import give_project, release

MARKS = [
    pytest.mark.hubs,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(postgres_server.programs() is None, reason=postgres_server.MISSING),
    pytest.mark.skipif(installed() is None, reason="mosquitto 2.0 or newer is not installed"),
]

COUNT = 20
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
    async def fleet(self, count: int = COUNT) -> AsyncIterator[Fleet]:
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


def play(
    tmp_path: Path,
    url: str,
    story: Callable[[Scene], Coroutine[Any, Any, None]],
    prepared: Callable[[Cluster], None] = lambda cluster: None,
) -> None:
    """Let the story happen to two hubs that are up, after what is done to the cluster before they start."""
    cluster = Cluster(tmp_path, url)

    async def whole() -> None:
        async with Balancer([*cluster.ports.values()]).running() as balancer:
            scene = Scene(cluster, balancer)
            scene.version = await asyncio.to_thread(_prepared, cluster, tmp_path)
            await asyncio.to_thread(prepared, cluster)
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
